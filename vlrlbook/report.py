"""report.html of a finished run: what came of it, on two screens, in one file that can be sent to somebody.

Made from the files that a run leaves (`results.json`, `run_log.csv`, `pictures.json`), so that it can be made
again for any run, older ones too: what a run did not keep is left out. No code, no script, nothing fetched
from elsewhere, and no path of the machine. Written by hand."""
import json
from base64 import b64encode
from dataclasses import asdict
from html import escape
from pathlib import Path

from .compared import compared_figures
from .core import RunLog, blue, figure, green, smooth
from .evaluation_settings import EvaluationSettings
from .folders import write_whole
from .marking import counted, merged
from .readers.turns import on_one_line
from .rewards import accepted_answers
from .settings import GRPOSettings, SettingsError, read_settings, reward_without_paths
from .verdict import outcomes, read_verdict

__all__ = ["outcome_colours", "curve_words", "StageCards", "stage_table", "changed_settings", "report_html", "write_report"]

report_name = "report.html"
stage_words = {"first": "before training", "middle": "in the middle", "last": "at the end"}
# Settings that the report leaves out: paths, permissions and how a run was continued explain no result.
_left_out = ("size", "data", "predictions", "image_dir", "output_dir", "resume", "adapter",
            "hub_model_id", "report_to", "vllm_server_base_url")
# The report shows the outcome as a word, too, for readers who cannot tell the colours apart.
_green, _amber, _red, _grey = "#009E73", "#B8860B", "#C0392B", "#666666"
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
    "not measured": _grey,
}


# What the curves say

def curve_words(
    log: RunLog,  # with its `baselines`, where they are known
) -> str:  # sentences
    "Describe the curve of a run's reward in words: its beginning and end, the blind baseline, silent groups"
    steps, rewards = log.series("reward")  # the steps at which it was logged, and its values there
    if not rewards:
        return "No step was logged."

    # One logged step holds few prompts, so its reward is noisy: beginning and end are means over a fifth.
    window = max(1, len(rewards) // 5)  # rows of the log
    begin = sum(rewards[:window]) / window
    end = sum(rewards[-window:]) / window
    span = f"means over {window} of {len(rewards)} logged rows, steps {steps[0]:.0f} to {steps[-1]:.0f}"
    clauses = [f"The reward was {begin:.2f} at first and {end:.2f} at last ({span})"]

    blind = log.baselines.get("blind_reward")  # what the best answer earns that ignores the picture
    if blind is not None:
        clauses.append(_blind_clause(end, blind))
    _, silent_shares = log.series("silent")  # share of groups whose answers all earned the same
    if silent_shares:
        clauses.append(_silent_clause(silent_shares[-window:]))
    return "; ".join(clauses) + "."


def _blind_clause(
    reward,  # mean reward at the end of the training
    blind_reward,  # what the best answer earns that ignores the picture
):
    "`that is above what the best answer without a picture earns, 0.40`: a clause"
    where = "above" if reward > blind_reward else "not above"
    return f"that is {where} what the best answer without a picture earns, {blind_reward:.2f}"


def _silent_clause(
    shares,  # of silent groups, 0 to 1, one for each of the last logged steps
):
    """A clause about silent groups: all answers to one prompt earned the same

    Then no answer was better than another one, and nothing is learned from the group."""
    last = sum(shares) / len(shares)
    return (f"at last all answers of a group earned the same in {100 * last:.0f} % of the groups, "
            "which teach nothing (silent groups)")


# The same pictures at three stages

def _truth(
    kept,  # dict of pictures.json: a picture or a flip; its `answer` is a text, or a JSON list of several
):
    "The truth of a picture as readers see it; where several are accepted, such as `gray or grey`"
    return " or ".join(accepted_answers(kept["answer"]))


class StageCards:
    "The same held-out pictures at the first, middle and last step; shows itself as a table"

    def __init__(self,
        kept: dict,  # what pictures.json of a run holds: pictures, stages
    ):
        "Keep the pictures and the stages; a run without pictures gives an empty table"
        self.pictures = kept.get("pictures", [])  # dicts with image (data URL), question, answer (the truth)
        # Dicts with when (first, middle, last), step, and the model's answers: `greedy` and `sampled` hold a
        # list of texts for each picture, `greedy` a list of one.
        self.stages = [_on_one_line(stage) for stage in kept.get("stages", [])]

    def said(self,
        stage: dict,  # one of `stages`
        place: int,  # index of the picture in `pictures`
    ) -> str:  # best guess, then samples, equal ones counted
        "The model's answers to a picture at a stage, on one line"
        best_guess = stage["greedy"][place][0]  # of a list with this one text
        return f"{best_guess} · sampled: {merged(stage['sampled'][place])}"

    def __repr__(self):
        "Lines of text: each picture's question and truth, then the answers at each stage"
        lines = []
        for place, picture in enumerate(self.pictures):
            lines.append(f"{picture['question'].strip()} (truth: {_truth(picture)})")
            for stage in self.stages:
                when = f"{stage_words[stage['when']]}, step {stage['step']}"
                answers = self.said(stage, place)  # one line: the best guess, then the samples, counted
                lines.append(f"  {when}: {answers}")
        return "\n".join(lines)

    def _repr_html_(self):
        "An HTML table, as notebooks show it: a row for each picture, a column for each stage"
        heads = ["picture", "truth"]
        for stage in self.stages:  # `stage_words`: "before training" for "first", and so on
            heads.append(f"{stage_words[stage['when']]}<br>step {stage['step']}")
        rows = [self._cells(place) for place in range(len(self.pictures))]
        return _table(heads, rows)

    def _cells(self,
        place,  # index of the picture in `pictures`
    ):
        "The cells of a picture's row, as a list of HTML texts: picture, truth, and the answers at each stage"
        # `_text` escapes a text for HTML, since truths and answers may hold anything
        picture = self.pictures[place]
        cells = [_image(picture["image"], width=72), _text(_truth(picture))]
        for stage in self.stages:
            # The best guess (the only text of its list) in bold; below it a line for each different sample,
            # such as "7 × red".
            best_guess = _text(stage["greedy"][place][0])
            samples = [_text(line) for line in counted(stage["sampled"][place])]
            cells.append("<br>".join([f"<b>{best_guess}</b>", *samples]))
        return cells


def _on_one_line(stage):
    """A stage with each answer of several turns (task zoom) on one line; other answers stay as they are

    `stage`: a dict of when, step, and `greedy` and `sampled`: for each picture a list of texts."""
    answers = {}
    for how in ("greedy", "sampled"):
        answers[how] = [list(map(on_one_line, texts)) for texts in stage[how]]
    return stage | answers


def stage_table(
    path: str | Path,  # pictures.json of a run
) -> StageCards:
    "Read a run's pictures.json as a table: the same pictures at three stages of training"
    return StageCards(json.loads(Path(path).read_text(encoding="utf-8")))


# Pieces of HTML

def _text(value, most=160):
    "A text escaped for HTML, on one line, cut after `most` characters; the text may come from anybody"
    line = " ".join(str(value).split())  # each run of blanks and line breaks becomes one blank
    if len(line) > most:
        line = line[: most - 1] + "…"
    return escape(line) or "(nothing)"  # else an empty answer would look like a fault of the page


def _image(
    url,  # such as "data:image/png;base64,…"; None or "" without a picture
    width,  # pixels on the page
):
    """An HTML <img> of a picture that the page itself holds, as a data URL of a PNG

    Any other URL is left out: a browser would fetch it, or it might hold a script."""
    if not url or not url.startswith("data:image/png;base64,"):
        return "(no picture)"
    return f'<img src="{escape(url)}" alt="picture" width="{width}">'


def _row(
    cells,  # HTML
    tag="td",  # of a cell; "th" in the row of titles
):
    "A row of an HTML table; texts in the cells must have been escaped before"
    inside = "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)
    return f"<tr>{inside}</tr>"


def _table(heads, rows):
    """An HTML table of `rows` (lists of cells) under the titles `heads`; an empty text if there is no row

    All cells are HTML, so texts in them must have been escaped before."""
    if not rows:
        return ""
    head = _row(heads, "th")
    body = "".join(_row(row) for row in rows)
    return f"<table>{head}{body}</table>"


def _section(title, body):
    "A part of the report under a heading; empty text if `body` is empty"
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


# The parts of the report

def changed_settings(
    settings: dict,  # of results.json
) -> dict:  # name → value
    "The settings of a run that differ from the defaults of its size and task"
    # Size and task decide which defaults hold.
    size_and_task = {name: settings[name] for name in ("size", "task") if settings.get(name)}
    kind = EvaluationSettings if _is_evaluation(settings) else GRPOSettings
    if kind is EvaluationSettings and settings.get("data"):  # without a task it takes that of its file
        size_and_task.setdefault("task", EvaluationSettings(data=settings["data"]).asked_task)
    try:
        defaults = asdict(read_settings(kind, size_and_task))
    except SettingsError:
        return {}  # a run of another chapter, or of a later version, has other defaults
    changed = {}
    for name, value in settings.items():
        # `_left_out`: settings that say nothing about the run itself, such as folders, or are shown elsewhere
        is_shown = name in defaults and name not in _left_out
        # An evaluation keeps None for what was not given and has no default, such as the task of predictions.
        is_unset = kind is EvaluationSettings and value is None
        if is_shown and not is_unset and value != defaults[name]:
            changed[name] = value
    return changed


def _is_evaluation(settings):
    "Whether the settings in a results.json are those of an evaluation, by two names that no training has"
    return {"split_seed", "predictions"} <= set(settings)


def _about_run(
    results,  # dict from the run's results.json; older runs lack some keys
    kept,  # dict from its pictures.json: `pictures` are dicts with question and answer; empty without it
):
    "Question, data, model, reward and settings of a run, as an HTML list of definitions (<dl>)"
    settings = results.get("settings") or {}
    items = []  # (name, HTML); `_text` escapes a text for HTML and cuts it to a length
    if kept.get("pictures"):
        items.append(("Question", _question_words(kept["pictures"][0])))
    items.append(("Data", _data_words(settings, results)))
    # Of a path only the last part: a report is sent to people who need not know the machine's directories.
    if settings.get("model"):
        items.append(("Model", _text(Path(settings["model"]).name)))
    if settings.get("reward"):
        items.append(("Reward", _text(reward_without_paths(settings["reward"]))))
    for judge in results.get("judges") or []:  # models that took part in the reward
        items.append(("Who paid", _judge_words(judge)))
    items.append(("Settings that differ from the defaults", _changed_words(settings)))
    lines = "".join(f"<dt>{name}</dt><dd>{html}</dd>" for name, html in items)
    return f"<dl>{lines}</dl>"


def _question_words(picture):
    "The question and the truth of a picture, as an example and as HTML: other pictures may have others"
    question = picture["question"].replace("<image>", "").strip()  # <image> marks the picture's place
    return f"“{_text(question)}”, for instance; a true answer is “{_text(_truth(picture), 60)}”"


def _judge_words(
    judge,  # dict: name, kind, and for some pair_accuracy, the share of pairs that it ranks as people do
):
    "A model that took part in the reward: its name, kind and, where it is known, its accuracy; as HTML"
    accuracy = judge.get("pair_accuracy")
    quality = f", pair accuracy {accuracy:.3f} by its own run" if accuracy is not None else ""
    return _text(f"{judge['name']} ({judge['kind']}{quality})")


def _changed_words(settings):
    "The settings that differ from the defaults, as HTML such as `seed = 3, max_steps = 50`"
    changed = changed_settings(settings)
    if "reward" in changed:  # it may hold paths of the machine, which no reader of a report should see
        changed["reward"] = reward_without_paths(changed["reward"])
    changed_words = ", ".join(f"{name} = {value}" for name, value in changed.items())
    # 600 characters, since many settings may differ; other texts are cut after 160
    return _text(changed_words, 600) if changed else "none"


def _data_words(
    settings,  # dict of the run's settings; `data` is a path, or None
    results,  # dict from results.json: `after` has the measures, where the run was measured
):
    "The name of a run's data and how many held-out rows it was measured on, as HTML"
    name = "drawn pictures"  # without a data set the chapter draws its own
    if settings.get("data") or settings.get("predictions"):  # predictions: answers that an evaluation scored
        name = Path(settings.get("data") or settings["predictions"]).name
    words = _text(name)
    if results.get("after"):
        held_out = results["after"]["greedy"]["n"]
        words += f"; measured on {held_out} held-out rows that were never trained on"
    return words


def _comparison(
    results,  # dict from the run's results.json; older runs lack some keys
):
    """An HTML table of the measures before and after training, with the gain and its interval

    A row for each way of asking (greedy, sampled, …) and each measure."""
    rows = []
    for row in compared_figures(results):  # dicts: asked, words (of the measure), before, after, gain, …
        if None in (row["before"], row["after"], row["gain"]):  # it was not measured
            continue
        before, after = f"{row['before']:.3f}", f"{row['after']:.3f}"
        gain = f"<b>{row['gain']:+.3f}</b>"
        interval = f"{_ends_of(row['ci95'])} ({_text(row['interval'])})"
        rows.append([row["asked"], row["words"], before, after, gain, interval])
    return _table(["asked", "measure", "before", "after", "gain", "95 % interval"], rows)


def _ends_of(interval):
    "The ends of an interval (low, high) as text; `none` for None"
    if not interval:
        return "none"
    low, high = interval
    return f"{low:+.3f} to {high:+.3f}"


def _curves(
    folder,  # of the run, with run_log.csv: a row per logged step
    results,  # dict from results.json: `baselines` maps a name to a value
):
    """A chart of reward and share of right answers over the steps, embedded as a PNG, and its words

    Horizontal lines show the baselines: what can be reached without looking at the picture. Empty text where
    no reward was logged."""
    path = folder / "run_log.csv"
    log = RunLog.read(path) if path.exists() else RunLog()
    log.baselines = results.get("baselines") or {}  # name → value
    _, rewards = log.series("reward")
    if not rewards:
        return ""

    png_bytes = _reward_figure(log)._repr_png_()  # a method of the book's own figures, see `core.figure`
    png = b64encode(png_bytes).decode()
    image = f'<img src="data:image/png;base64,{png}" alt="reward over the steps">'
    return f"{image}<p>{escape(curve_words(log))}</p>"  # whole; `_text` would cut it after 160 characters


def _reward_figure(log):
    """A matplotlib figure over the steps of a training: reward, share of right answers, and baselines

    `log`: RunLog with the column reward, with columns part/… of the reward's parts, and with `baselines`."""
    # The column with that share ends in `exact` or `accuracy`; in a sum of rewards a name stands before:
    # part/counting_exact. The first of them is drawn; a reward may have none.
    parts = [name for name in log.columns if name.startswith("part/")]
    right_parts = [name for name in parts if name.endswith(("exact", "accuracy"))]
    names = ["reward"] + right_parts[:1]

    fig, ax = figure(5.4, 3.2, nrows=1)  # inches
    for name, colour in zip(names, (blue, green)):
        steps, values = log.series(name)
        ax.plot(steps, values, color=colour, alpha=0.25, lw=1)  # raw values faint, smoothed ones strong
        ax.plot(steps, smooth(values), color=colour, lw=2, label=name.removeprefix("part/"))
    _draw_baselines(ax, log.baselines)
    ax.set(xlabel="step", title=f"while training (n = {len(log)} logged rows)")
    ax.title.set_fontsize(9)
    ax.legend(fontsize=7.5, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return fig


def _draw_baselines(
    ax,  # matplotlib axes
    baselines,  # majority and blind_reward → value: what is reached without looking at the picture
):
    "Draw at most two baselines as horizontal lines, dotted and dashed, with words and value in the legend"
    words = dict(majority="right: one answer to all", blind_reward="reward: best answer without a picture")
    for (name, value), dashes in zip(baselines.items(), (":", "--")):
        ax.axhline(value, color="black", lw=0.9, ls=dashes, label=f"{words.get(name, name)} ({value:.2f})")


def _flips(
    kept,  # dict from pictures.json; of each flip: image, became_right, before, after, answer (the truth)
):
    """Cards of the pictures whose answer became right and of those whose answer became wrong, as HTML

    Both kinds are shown, so that the report shows losses, too."""
    cards = []
    for flip in kept.get("flips", []):
        kind = "became right" if flip["became_right"] else "became wrong"
        # As HTML, each at most 60 characters
        texts = (flip["before"], flip["after"], _truth(flip))
        before, after, truth = (_text(on_one_line(text), 60) for text in texts)
        words = f"<b>{kind}</b><br>{before} → {after}<br>truth: {truth}"
        image = _image(flip["image"], width=84)
        cards.append(f"<figure>{image}<figcaption>{words}</figcaption></figure>")
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _questions(
    verdict,  # dict; its `questions` are dicts of question, answer (yes, no or cannot tell) and detail
):
    "An HTML table of the questions that a verdict answers, each with its answer and the numbers behind it"
    rows = []
    for entry in verdict["questions"]:  # `_text` escapes a text for HTML
        rows.append([_text(entry["question"]), f"<b>{_text(entry['answer'])}</b>", _text(entry["detail"])])
    return _table(["question", "answer", "numbers"], rows)


def _cost(
    results,  # dict from results.json: seconds, peak_memory_mb, device (text), versions (name → version)
):
    "Time, memory, device and versions of a run, as a paragraph of HTML; older runs lack some of them"
    facts = []  # short texts; `_text` below joins, escapes and cuts them after 400 characters
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
    return f"<p>{_text(' · '.join(facts), most=400)}</p>" if facts else ""


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


def _title(results):
    """The title of a report: `model, task after training on data`, of an evaluation `model, task, evaluated on
    data`

    `results` is that of results.json."""
    settings = results.get("settings") or {}
    title = settings.get("task") or results.get("task") or "a run"
    title += ", evaluated" if _is_evaluation(settings) else " after training"
    # of paths only the last part: a report is sent to people who need not know the machine's folders
    if settings.get("data"):
        title += f" on {Path(settings['data']).name}"
    if settings.get("model"):
        title = f"{Path(settings['model']).name}, {title}"
    return title


def report_html(
    folder: str | Path,  # of a finished run, or of a job's result
) -> str:  # a whole page
    "The report of a run as one HTML page; SettingsError where the folder holds no run"
    folder = Path(folder)
    if not (folder / "results.json").exists():
        raise SettingsError(f"{folder.name or folder}: no results.json there, so this is no finished run")

    results = _results_in(folder)
    # Older runs, and runs that were not measured, have no pictures.json.
    pictures = folder / "pictures.json"
    kept = json.loads(pictures.read_text(encoding="utf-8")) if pictures.exists() else {}
    title = _text(_title(results))  # escaped for HTML
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_style}</style>'
    body = f"<h1>{title}</h1>" + _body(folder, results, kept)
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def _results_in(folder):
    "The object in a run's results.json, as a dict; SettingsError if the file is damaged or holds none"
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{folder.name}: its results.json cannot be read: {error}") from error
    if not isinstance(results, dict):
        raise SettingsError(f"{folder.name}: its results.json is no object, but a {type(results).__name__}")
    return results


def _body(
    folder,  # of the run
    results,  # dict from its results.json
    kept,  # dict from its pictures.json; empty for a run without it
):
    "The report under its title, as HTML"
    verdict = read_verdict(folder)  # outcome (a word), sentence, questions
    stages = StageCards(kept)
    # Each helper returns HTML, or "" where the run kept nothing to show: then `_section` leaves the part
    # out with its heading.
    return "".join([
        _verdict_box(verdict),
        _about_run(results, kept),
        '<div class="two">',
        _section("Before and after, on the same held-out pictures", _comparison(results)),
        _section("While it learned", _curves(folder, results)),
        _section("The same pictures at three stages", stages._repr_html_() if stages.stages else ""),
        _section("Pictures whose answer changed", _flips(kept)),
        "</div>",
        _section("What a gain must survive", _questions(verdict)),
        _section("Cost", _cost(results)),
    ])


def _verdict_box(
    verdict,  # dict of outcome, a word such as "better", and sentence
):
    "A verdict's sentence and outcome as HTML, in the colour of the outcome"
    outcome = verdict["outcome"]
    meaning = outcomes.get(outcome, "")  # what the word means; another version may have other words
    colour = outcome_colours.get(outcome, _grey)
    sentence = escape(verdict["sentence"])  # whole; `_text` would cut it after 160 characters
    return (f'<div class="verdict" style="border-color: {colour}">{sentence}'
            f"<br><small><b>{_text(outcome)}</b>: {_text(meaning)}</small></div>")


def write_report(
    folder: str | Path,  # of a finished run, or of a job's result
    out: str | Path | None = None,  # file to write; None: report.html in the folder
) -> Path:  # the file
    "Write the report of a run, whole or not at all"
    path = Path(out) if out else Path(folder) / report_name
    write_whole(path, report_html(folder))
    return path
