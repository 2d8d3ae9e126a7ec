"""report.html of a finished run: what came of it, on two screens, in one file that can be sent to somebody.

Made from the files that a run leaves (`results.json`, `run_log.csv`, `pictures.json`), so that it can be made
again for any run, older ones too: what a run did not keep is left out. No code, no script, nothing fetched
from elsewhere, and no path of the machine. Written by hand."""
import json
from base64 import b64encode
from dataclasses import asdict
from html import escape
from pathlib import Path

from .core import RunLog, blue, figure, green, smooth
from .folders import write_whole
from .marking import counted, merged
from .settings import GRPOSettings, SettingsError, read_settings, reward_without_paths
from .verdict import outcomes, read_verdict

__all__ = ["outcome_colours", "curve_words", "StageCards", "stage_table", "changed_settings", "report_html", "write_report"]

report_name = "report.html"
stage_words = {"first": "before training", "middle": "in the middle", "last": "at the end"}
# Where files lie, who may read them and how a run was continued tells a reader nothing about what came of it.
_private = ("size", "data", "image_dir", "output_dir", "resume", "adapter", "hub_model_id", "report_to",
            "vllm_server_base_url")
# The outcome stands beside its colour as a word, for who cannot tell the colours apart.
_green, _amber, _red, _plain = "#009E73", "#B8860B", "#C0392B", "#666666"
outcome_colours = {
    "better": _green,
    "surer": _amber,
    "not better": _amber,
    "no better than one answer": _red,
    "not as meant": _red,
    "gamed": _red,
    "worse": _red,
    "collapsed": _red,
    "one truth": _amber,
    "too few pictures": _amber,
    "not measured": _plain,
}


# What the curves say

def curve_words(
    log: RunLog,  # with its `baselines`, where they are known
) -> str:  # sentences
    "What the reward's curve of a run says, in numbers of that run"
    steps, rewards = log.series("reward")
    if not rewards:
        return "No step was logged."
    # One logged step is a few prompts, so either end is a mean over a fifth of the rows.
    share = max(1, len(rewards) // 5)
    begin, end = sum(rewards[:share]) / share, sum(rewards[-share:]) / share
    span = f"means over {share} of {len(rewards)} logged rows, steps {steps[0]:.0f} to {steps[-1]:.0f}"
    words = [f"The reward was {begin:.2f} at first and {end:.2f} at last ({span})"]
    blind = log.baselines.get("blind_reward")
    if blind is not None:
        where = "above" if end > blind else "not above"
        words.append(f"that is {where} what the best answer without a picture earns, {blind:.2f}")
    silent = log.series("silent")[1]
    if silent:
        last = sum(silent[-share:]) / min(share, len(silent))
        words.append(f"at last all answers of a group earned the same in {100 * last:.0f} % of the groups, "
                     "which teach nothing (silent groups)")
    return "; ".join(words) + "."


# The same pictures at three stages

class StageCards:
    "The same held-out pictures at the first, middle and last step; shows itself as a table"

    def __init__(self,
        kept: dict,  # what pictures.json of a run holds: pictures, stages
    ):
        self.pictures, self.stages = kept.get("pictures", []), kept.get("stages", [])

    def said(self,
        stage: dict,  # one of `stages`
        place: int,  # of the picture
    ) -> str:  # best guess, then samples, equal ones counted
        "What was said to a picture at a stage"
        return f"{stage['greedy'][place][0]} · sampled: {merged(stage['sampled'][place])}"

    def __repr__(self):
        lines = []
        for place, picture in enumerate(self.pictures):
            lines.append(f"{picture['question'].strip()} (truth: {picture['answer']})")
            for stage in self.stages:
                when = f"{stage_words[stage['when']]}, step {stage['step']}"
                lines.append(f"  {when}: {self.said(stage, place)}")
        return "\n".join(lines)

    def _repr_html_(self):
        heads = ["picture", "truth"]
        for stage in self.stages:
            heads.append(f"{stage_words[stage['when']]}<br>step {stage['step']}")
        rows = []
        for place, picture in enumerate(self.pictures):
            cells = [_image(picture["image"], 72), _text(picture["answer"])]
            for stage in self.stages:
                # The best guess in bold, below it the samples, equal ones merged.
                best = _text(stage["greedy"][place][0])
                sampled = [_text(line) for line in counted(stage["sampled"][place])]
                cells.append("<br>".join([f"<b>{best}</b>", *sampled]))
            rows.append(cells)
        return _table(heads, rows)


def stage_table(
    path: str | Path,  # pictures.json of a run
) -> StageCards:
    "The same pictures at three stages, from what a run kept"
    return StageCards(json.loads(Path(path).read_text(encoding="utf-8")))


# Pieces of HTML

def _text(value, most=160):
    "Anybody's text made harmless, on one line of at most so many characters"
    line = " ".join(str(value).split())
    if len(line) > most:
        line = line[: most - 1] + "…"
    return escape(line) or "(nothing)"


def _image(url, side):
    "A picture that stands in the file; only a PNG of our own making is let through"
    if not url or not url.startswith("data:image/png;base64,"):
        return "(no picture)"
    return f'<img src="{escape(url)}" alt="picture" width="{side}">'


def _row(cells, tag="td"):
    "A row of a table; its cells are HTML already"
    inside = "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"


def _table(heads, rows):
    "A table of texts that are HTML already; nothing without a row"
    if not rows:
        return ""
    head = _row(heads, "th")
    body = "".join(_row(row) for row in rows)
    return f"<table>{head}{body}</table>"


def _section(title, body):
    "A headed part of the report; nothing where there is nothing to show"
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


# The parts of the report

def changed_settings(
    settings: dict,  # of results.json
) -> dict:  # name → value
    "The settings of a run that differ from the defaults of its size and task"
    same = {name: settings[name] for name in ("size", "task") if settings.get(name)}
    try:
        defaults = asdict(read_settings(GRPOSettings, same))
    except SettingsError:
        return {}  # a run of another chapter, or of a later version, has its own defaults
    found = {}
    for name, value in settings.items():
        if name in defaults and name not in _private and value != defaults[name]:
            found[name] = value
    return found


def _what_it_was(results, kept):
    "Question, data, reward and settings, as a list"
    settings = results.get("settings") or {}
    items = []
    pictures = kept.get("pictures", [])
    if pictures:
        question = pictures[0]["question"].replace("<image>", "").strip()
        # One question stands for all: a set may ask something else of each picture.
        answer = _text(pictures[0]["answer"], 60)
        items.append(("Question", f"“{_text(question)}”, for instance; a true answer is “{answer}”"))
    data = Path(settings["data"]).name if settings.get("data") else "drawn pictures"
    data = _text(data)
    if results.get("after"):
        held_out = results["after"]["greedy"]["n"]
        data = f"{data}; measured on {held_out} held-out rows that were never trained on"
    items.append(("Data", data))
    # A model may be a directory, whose place on the machine is nobody's business.
    if settings.get("model"):
        items.append(("Model", _text(Path(settings["model"]).name)))
    if settings.get("reward"):
        items.append(("Reward", _text(reward_without_paths(settings["reward"]))))
    for judge in results.get("judges") or []:
        accuracy = judge.get("pair_accuracy")
        known = f", pair accuracy {accuracy:.3f} by its own run" if accuracy is not None else ""
        items.append(("Who paid", _text(f"{judge['name']} ({judge['kind']}{known})")))
    changed = changed_settings(settings)
    if "reward" in changed:
        changed["reward"] = reward_without_paths(changed["reward"])
    told = ", ".join(f"{name} = {value}" for name, value in changed.items())
    items.append(("Settings that differ from the defaults", _text(told, 600) if changed else "none"))
    lines = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in items)
    return f"<dl>{lines}</dl>"


def _comparison(results):
    "Before, after and gain with its interval, of each way of asking"
    measures = dict(exact_accuracy="right", verbatim_accuracy="to the letter", mean_reward="mean reward")
    rows = []
    for how, gained in (results.get("gain") or {}).items():
        before, after = results["before"][how], results["after"][how]
        for name, words in measures.items():
            if name not in gained or before.get(name) is None:
                continue
            low, high = gained[f"{name}_ci95"]
            # JSON knows no nan: an interval that could not be made, as of one picture, is read back as None.
            interval = "none" if low is None else f"{low:+.3f} to {high:+.3f}"
            made = gained.get(f"{name}_interval", "normal")  # runs before it was kept had no other
            way = "best guess" if how == "greedy" else how
            change = f"<b>{gained[name]:+.3f}</b>"
            values = [f"{before[name]:.3f}", f"{after[name]:.3f}", change, f"{interval} ({_text(made)})"]
            rows.append([way, words, *values])
    return _table(["asked", "measure", "before", "after", "gain", "95 % interval"], rows)


def _curves(folder, results):
    "Reward and share right over the steps, with what needs no picture as lines, as a picture inside the file"
    path = folder / "run_log.csv"
    log = RunLog.read(path) if path.exists() else RunLog()
    log.baselines = results.get("baselines") or {}
    if not log.series("reward")[0]:
        return ""
    # Of a sum of rewards the part's name begins with the rule's.
    parts = [name for name in log.columns if name.startswith("part/")]
    names = ["reward"] + [name for name in parts if name.endswith(("exact", "accuracy"))][:1]
    fig, ax = figure(5.4, 3.2, nrows=1)
    # Raw values faint, smoothed ones strong, as in every chart of the book.
    for name, colour in zip(names, (blue, green)):
        steps, values = log.series(name)
        ax.plot(steps, values, color=colour, alpha=0.25, lw=1)
        ax.plot(steps, smooth(values), color=colour, lw=2, label=name.removeprefix("part/"))
    words = dict(majority="right: one answer to all", blind_reward="reward: best answer without a picture")
    for (name, value), dashes in zip(log.baselines.items(), (":", "--")):
        ax.axhline(value, color="black", lw=0.9, ls=dashes, label=f"{words.get(name, name)} ({value:.2f})")
    ax.set(xlabel="step", title=f"while training (n = {len(log)} logged rows)")
    ax.title.set_fontsize(9)
    ax.legend(fontsize=7.5, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    png = b64encode(fig._repr_png_()).decode()
    image = f'<img src="data:image/png;base64,{png}" alt="reward over the steps">'
    return f"{image}<p>{escape(curve_words(log))}</p>"


def _flips(kept):
    "Pictures that became right and that became wrong"
    cards = []  # both kinds, or the report would show what went well and nothing else
    for flip in kept.get("flips", []):
        kind = "became right" if flip["became_right"] else "became wrong"
        before, after, truth = (_text(flip[name], 60) for name in ("before", "after", "answer"))
        words = f"<b>{kind}</b><br>{before} → {after}<br>truth: {truth}"
        cards.append(f"<figure>{_image(flip['image'], 84)}<figcaption>{words}</figcaption></figure>")
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _questions(found):
    "Each question with its answer and the numbers behind it"
    # In the verdict's own order: what a reader wants to know first stands first.
    rows = []
    for q in found["questions"]:
        rows.append([_text(q["question"]), f"<b>{_text(q['answer'])}</b>", _text(q["detail"])])
    return _table(["question", "answer", "numbers"], rows)


def _cost(results):
    "What the run took, and on what"
    facts = []  # an older run may lack any of them
    if results.get("seconds"):
        facts.append(f"{results['seconds'] / 60:.1f} minutes")
    if results.get("peak_memory_mb"):
        facts.append(f"{results['peak_memory_mb']:.0f} MB at most")
    versions = results.get("versions") or {}
    if results.get("device"):
        facts.append(results["device"])
    for name in ("torch", "transformers", "trl", "vlrlbook"):
        if versions.get(name):
            facts.append(f"{name} {versions[name]}")
    return f"<p>{_text(' · '.join(facts), 400)}</p>" if facts else ""


_style = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 75rem; margin: 1.5rem auto; padding: 0 1rem;
       color: #222; background: #fff }
h1 { font-size: 1.15rem; font-weight: 500; margin: 0 0 .6rem } h2 { font-size: 1rem; margin: 1.2rem 0 .4rem }
.verdict { border-left: .5rem solid; padding: .5rem 1rem; font-size: 1.1rem; background: #f6f6f6 }
.verdict small { color: #555 }
table { border-collapse: collapse; font-size: .85rem }
td, th { padding: .2rem .6rem .2rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .6rem 0;
     font-size: .9rem }
dt { color: #555 } dd { margin: 0 } p { margin: .3rem 0; font-size: .9rem } img { max-width: 100% }
.cards { display: flex; flex-wrap: wrap; gap: .8rem } figure { margin: 0; width: 8rem; font-size: .8rem }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(28rem, 1fr)); gap: 0 2rem }
"""


def report_html(
    folder: str | Path,  # of a finished run, or of a job's result
) -> str:  # a whole page
    "The report of a run as one HTML page; SettingsError where the folder holds no run"
    folder = Path(folder)
    if not (folder / "results.json").exists():
        raise SettingsError(f"{folder.name}: no results.json there, so this is no finished run")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    # Runs before the file was written, and those that were not measured, kept no pictures.
    pictures = folder / "pictures.json"
    kept = json.loads(pictures.read_text(encoding="utf-8")) if pictures.exists() else {}
    found = read_verdict(folder)
    settings = results.get("settings") or {}
    title = f"{settings.get('task') or results.get('task') or 'a run'} after training"
    if settings.get("data"):
        title += f" on {Path(settings['data']).name}"
    if settings.get("model"):
        title = f"{Path(settings['model']).name}, {title}"
    outcome = found["outcome"]
    said = outcomes.get(outcome, "")
    colour = outcome_colours.get(outcome, _plain)
    stages = StageCards(kept)
    # The verdict stands first: a reader of one line should know what came of it.
    body = [
        f"<h1>{_text(title)}</h1>",
        f'<div class="verdict" style="border-color: {colour}">{escape(found["sentence"])}'
        f"<br><small><b>{_text(outcome)}</b>: {_text(said)}</small></div>",
        _what_it_was(results, kept),
        '<div class="two">',
        _section("Before and after, on the same held-out pictures", _comparison(results)),
        _section("While it learned", _curves(folder, results)),
        _section("The same pictures at three stages", stages._repr_html_() if stages.stages else ""),
        _section("Pictures whose answer changed", _flips(kept)),
        "</div>",
        _section("What a gain must survive", _questions(found)),
        _section("Cost", _cost(results)),
    ]
    head = f'<meta charset="utf-8"><title>{_text(title)}</title><style>{_style}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def write_report(
    folder: str | Path,  # of a finished run, or of a job's result
    out: str | Path | None = None,  # file to write; None: report.html in the folder
) -> Path:  # the file
    "Write the report of a run, whole or not at all"
    path = Path(out) if out else Path(folder) / report_name
    write_whole(path, report_html(folder))
    return path
