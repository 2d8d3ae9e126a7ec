"""A class's results as one page: places, the eight answers as eight marks, and behind each name its reward.

Made of what `standings` has ranked. No script and nothing fetched from elsewhere; whatever a student wrote is
shown as text. Written by hand."""
from html import escape

from .report import curve_words, outcome_colours
from .verdict import outcomes

__all__ = ["standings_html", "curve_svg"]

_marks = {"yes": "✓", "no": "✗", "cannot tell": "?", "not measured": "–"}
_classes = {"yes": "yes", "no": "no", "cannot tell": "open", "not measured": "open"}

_style = """
.standings { --page: #fff; --text: #222; --soft: #666; --line: #ddd; --card: #f7f7f7; --yes: #0072B2;
  --no: #C4500A;
  color: var(--text); background: var(--page); font: 15px/1.45 system-ui, sans-serif }
@media (prefers-color-scheme: dark) { .standings { --page: #17191c; --text: #e8e8e8; --soft: #a5a9ad;
  --line: #3a3d41; --card: #212428; --yes: #2f8fd0; --no: #d9661f; color-scheme: dark } }
body.standings { max-width: 68rem; margin: 1.5rem auto; padding: 0 1rem }
.standings h1 { font-size: 1.4rem; margin: 0 0 .3rem } .standings h2 { font-size: 1.05rem; margin:
  1.6rem 0 .5rem }
.standings p { margin: .3rem 0 } .standings .soft { color: var(--soft); font-size: .88rem }
.standings ol.places { list-style: none; margin: 1rem 0; padding: 0 }
.standings li.one { background: var(--card); border-left: .45rem solid; border-radius: .3rem; margin: 0
  0 .6rem;
  padding: .6rem .9rem }
.standings .row { display: grid; grid-template-columns: 2.6rem minmax(9rem, 1fr) auto 10.5rem 8.5rem;
  gap: .3rem 1.2rem;
  align-items: center }
.standings .place { font-size: 1.5rem; font-weight: 600; text-align: center }
.standings .name { font-weight: 600; overflow-wrap: anywhere } .standings .row > div { min-width: 0 }
.standings .marks { display: flex; gap: .22rem } .standings .marks span { width: 1.55rem; height: 1.55rem;
  border-radius: .25rem; display: grid; place-items: center; font-size: .85rem; font-weight: 600 }
.standings .yes { background: var(--yes); color: #fff } .standings .no { background: var(--no); color:
  #fff }
.standings .open { border: 1px solid var(--soft); color: var(--soft); box-sizing: border-box }
.standings .tally { font-size: .8rem; color: var(--soft) }
.standings svg { display: block; width: 100%; height: 2.2rem } .standings svg path { stroke: var(--yes) }
.standings details { margin-top: .4rem } .standings summary { cursor: pointer; color: var(--soft);
  font-size: .88rem }
.standings pre { overflow-x: auto; background: var(--page); border: 1px solid var(--line);
  border-radius: .3rem;
  padding: .5rem .7rem; font-size: .82rem }
.standings .wide { overflow-x: auto } .standings table { border-collapse: collapse; font-size: .85rem }
.standings td, .standings th { text-align: left; vertical-align: top; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid var(--line) }
.standings .eight { columns: 2; padding-left: 1.4rem; margin: .3rem 0; font-size: .9rem }
@media (max-width: 46rem) { .standings .row { grid-template-columns: 2.2rem 1fr }
  .standings .row > .below { grid-column: 1 / -1 } .standings .eight { columns: 1 } }
"""


def standings_html(
    standings,  # from `standings.gather`
    whole: bool = True,  # a page of its own; False: a part of a notebook's page
) -> str:
    "A class's results, best first, then what could not be ranked"
    body = _body(standings)
    # in a notebook the page's own style must not reach other cells: every rule begins with .standings
    if not whole:
        return f'<style>{_style}</style><div class="standings">{body}</div>'
    head = ('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>Results of the contest</title><style>{_style}</style>")
    return f'<!doctype html><html lang="en"><head>{head}</head><body class="standings">{body}</body></html>\n'


_how_ranked = """Ranked by the number of the eight questions that are answered yes, then by fewer that are
answered no. Equal answers share a place, because a gain that is larger by a few pictures may be chance. A run
that collapsed, or is worse than its start, stands last."""


def _body(standings):
    "The page without its frame"
    # a fault in one file must be seen, but below the class's results
    parts = ["<h1>Results of the contest</h1>", _about(standings)]
    if standings.results:
        items = "".join(map(_item, standings.results))
        parts += [f'<ol class="places">{items}</ol>', _legend(standings.results[0].asked)]
    if standings.refused:
        told = "".join(f"<li>{escape(sentence)}</li>" for sentence in standings.refused)
        parts.append(f"<h2>Not ranked</h2><ul>{told}</ul>")
    return "".join(parts)


def _about(standings):
    "What was compared, in two sentences"
    # without one good file nobody knows what the class agreed on
    if standings.rules is None:
        return "<p>No result could be ranked.</p>"
    rules, n = standings.rules, len(standings.results)
    runs = "1 reward" if n == 1 else f"{n} rewards"
    return (f"<p>{runs}, each trained for {rules.steps} steps from the same start (seed {rules.seed}) and "
            f"measured on the same {rules.pictures} pictures, none of which GRPO trained on "
            f'<span class="soft">(set {standings.pictures})</span>.</p>'
            f'<p class="soft">{_how_ranked}</p>')


def _item(one):
    "One student's result"
    entry, colour = one.entry, outcome_colours.get(one.outcome, "#666666")
    pay = entry.run_log().series("reward")[1]
    marks = []
    # a mark, a colour and a title: who cannot tell the colours apart can read the marks
    for number, asked in enumerate(one.asked, 1):
        told = escape(f"{number}. {asked['question']} {asked['answer']}", quote=True)
        kind, mark = _classes[asked["answer"]], _marks[asked["answer"]]
        marks.append(f'<span class="{kind}" title="{told}">{mark}</span>')
    # what a broken run says is seen at once, and not behind a click
    says = f'<div class="tally">{escape(one.often[0])}</div>' if one.outcome == "collapsed" else ""
    right = f"{100 * one.before:.1f} % → <b>{100 * one.after:.1f} %</b>"
    cells = [
        f'<div class="place">{one.place}</div>',
        f'<div><div class="name">{escape(entry.name)}</div>'
        f'<div><b style="color: {colour}">●</b> {escape(one.outcome)}</div>{says}</div>',
        f'<div class="below"><div class="marks">{"".join(marks)}</div>'
        f'<div class="tally">{one.yes} yes, {one.no} no, of {len(one.asked)}</div></div>',
        f'<div class="below">{right}<div class="tally">best guesses that are right</div></div>',
        f'<div class="below">{curve_svg(pay)}<div class="tally">{_paid(pay)}</div></div>',
    ]
    row = f'<div class="row">{"".join(cells)}</div>'
    return f'<li class="one" style="border-color: {colour}">{row}{_behind(one)}</li>'


def _paid(values):
    "What the reward was at first and at last, in a few words"
    if not values:
        return "no reward was logged"
    return f"its own reward: {values[0]:.2f} → {values[-1]:.2f}"


_heads = "<tr><th>question</th><th>answer</th><th>numbers</th></tr>"


def _behind(one):
    "What is shown when a result is opened: verdict, answers, reward, the eight questions with numbers"
    rows = []
    for q in one.asked:
        cells = (escape(q["question"]), f"<b>{q['answer']}</b>", escape(q["detail"]))
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    # texts of a student and of a model are shown as text, whatever is in them
    often = escape("; ".join(one.often))
    return ("<details><summary>verdict, reward and numbers</summary>"
            f"<p>{escape(one.sentence)}</p>"
            f"<p class='soft'>{escape(one.outcome)}: {escape(outcomes.get(one.outcome, ''))}. "
            f"Commonest answers after training: {often}. {escape(curve_words(one.entry.run_log()))}</p>"
            f"<pre>{escape(one.entry.reward)}</pre>"
            f'<div class="wide"><table>{_heads}{"".join(rows)}</table></div></details>')


_words = """Greedy: the best guess. Sampled: answers drawn by chance. Exact: the right count. To the letter:
in the truth's own words."""


def _legend(asked):
    "The eight questions, numbered as the marks are"
    items = "".join(f"<li>{escape(q['question'])}</li>" for q in asked)
    return (f'<h2>The eight questions of chapter 06, from left to right</h2><ol class="eight">{items}</ol>'
            f'<p class="soft">{_words}</p>'
            '<p class="soft">✓ yes · ✗ no · ? cannot be told from so many pictures · – not measured</p>')


def curve_svg(
    values: list,  # numbers, in order
) -> str:
    "A small line without axes, from its lowest to its highest value; nothing for fewer than two values"
    if len(values) < 2:
        return ""
    # each curve has its own scale: rewards of different students have different units
    low, span = min(values), (max(values) - min(values)) or 1.0
    points = []
    for place, value in enumerate(values):
        points.append(f"{100 * place / (len(values) - 1):.1f},{27 - 24 * (value - low) / span:.1f}")
    label = f"reward from {values[0]:.2f} to {values[-1]:.2f}"
    return (f'<svg viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label="{label}">'
            f'<path d="M{" L".join(points)}" fill="none" stroke-width="1.5" vector-effect="non-scaling-stroke"/>'
            "</svg>")
