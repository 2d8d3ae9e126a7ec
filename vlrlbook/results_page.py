"""A class's results as one page: places, the eight answers as eight marks, and behind each name its reward.

Made of what `standings` has ranked. No script and nothing fetched from elsewhere; whatever a student wrote is
shown as text. Written by hand."""
from html import escape

from .report import curve_words, outcome_colours
from .verdict import outcomes

__all__ = ["standings_html", "curve_svg"]

# Answer to one of chapter 06's eight questions → its mark on the page, and its class in `_style`.
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
    standings,  # the ranked results of a class, from `standings.gather`
    whole: bool = True,  # True: a complete HTML page; False: a part of a notebook's page
) -> str:  # HTML
    "Show the results of a class as HTML: ranked results, best first, then the files that could not be ranked"
    body = _body(standings)
    # every rule in `_style` begins with .standings, so it does not change other cells of a notebook
    if not whole:
        return f'<style>{_style}</style><div class="standings">{body}</div>'
    head = ('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>Results of the contest</title><style>{_style}</style>")
    return f'<!doctype html><html lang="en"><head>{head}</head><body class="standings">{body}</body></html>\n'


_how_ranked = """Ranked by the number of the eight questions that are answered yes, then by fewer that are
answered no. Equal answers share a place, because a gain that is larger by a few pictures may be chance. A run
that collapsed, or is worse than its start, stands last."""


def _body(standings):
    """Return the content of the results page as HTML.

    `standings.results` is a list of ranked `Result`s, `standings.refused` a list of sentences about files
    that could not be ranked; these come last."""
    parts = ["<h1>Results of the contest</h1>", _introduction(standings)]
    if standings.results:
        items = "".join(map(_result_item, standings.results))
        # all results have the same eight questions, so the first one's will do for the legend
        parts += [f'<ol class="places">{items}</ol>', _legend(standings.results[0].asked)]
    if standings.refused:
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in standings.refused)
        parts.append(f"<h2>Not ranked</h2><ul>{items}</ul>")
    return "".join(parts)


def _introduction(
    standings,  # ranked results of a class: `results`, `rules` and `pictures`
):
    "Return two paragraphs of HTML: what the contest compared, and how the results are ranked"
    # the rules are those of most files, and None if no file could be read
    if standings.rules is None:
        return "<p>No result could be ranked.</p>"
    rules, result_count = standings.rules, len(standings.results)
    # rules.pictures is the number of pictures; standings.pictures a hash of them, by which sets are compared
    runs = "1 reward" if result_count == 1 else f"{result_count} rewards"
    return (f"<p>{runs}, each trained for {rules.steps} steps from the same start (seed {rules.seed}) and "
            f"measured on the same {rules.pictures} pictures, none of which GRPO trained on "
            f'<span class="soft">(set {standings.pictures})</span>.</p>'
            f'<p class="soft">{_how_ranked}</p>')


def _result_item(result):
    """Return one student's `Result` as an HTML list item.

    It has a row of cells, from the place to the curve of the reward, and details that can be opened."""
    colour = outcome_colours.get(result.outcome, "#666666")  # grey for any other outcome
    _steps, rewards = result.entry.run_log().series("reward")  # at each logged step
    question_signs = _question_marks(result.asked)  # the answers to chapter 06's questions, such as ✓ for yes
    # shares of right greedy answers before and after training
    right = f"{100 * result.before:.1f} % → <b>{100 * result.after:.1f} %</b>"
    # from left to right
    cells = [
        f'<div class="place">{result.place}</div>',
        _name_cell(result, colour),
        f'<div class="below"><div class="marks">{question_signs}</div>'
        f'<div class="tally">{result.yes} yes, {result.no} no, of {len(result.asked)}</div></div>',
        f'<div class="below">{right}<div class="tally">best guesses that are right</div></div>',
        f'<div class="below">{curve_svg(rewards)}<div class="tally">{_reward_change(rewards)}</div></div>',
    ]
    row = f'<div class="row">{"".join(cells)}</div>'
    return f'<li class="one" style="border-color: {colour}">{row}{_details(result)}</li>'


def _name_cell(
    result,  # a student's `Result`: `outcome`, such as better; `often`, such as ["60 × A photo of 3 discs"]
    colour,  # of the dot before the outcome, such as #0072B2
):
    "Return a student's name and the outcome of the training as HTML"
    collapsed_answer = ""
    if result.outcome == "collapsed":
        # collapsed: the model gives one answer, the most frequent, to nearly every picture
        most_frequent_answer = escape(result.often[0])
        collapsed_answer = f'<div class="tally">{most_frequent_answer}</div>'
    return (f'<div><div class="name">{escape(result.entry.name)}</div>'
            f'<div><b style="color: {colour}">●</b> {escape(result.outcome)}</div>{collapsed_answer}</div>')


def _question_marks(asked):
    """Return the answers to the eight questions as marks in HTML, such as ✓ for yes.

    `asked` is a list of dicts with question and answer (yes, no, cannot tell, not measured); both are shown
    when the mouse is over a mark."""
    marks = []
    for number, question in enumerate(asked, 1):
        title = escape(f"{number}. {question['question']} {question['answer']}", quote=True)
        # a sign beside the colour, for readers who cannot tell the colours apart
        css_class, mark = _classes[question["answer"]], _marks[question["answer"]]
        marks.append(f'<span class="{css_class}" title="{title}">{mark}</span>')
    return "".join(marks)


def _reward_change(values):
    "Return a few words on the first and the last reward of a training's log; `values` are all of them"
    if not values:
        return "no reward was logged"
    return f"its own reward: {values[0]:.2f} → {values[-1]:.2f}"


_heads = "<tr><th>question</th><th>answer</th><th>numbers</th></tr>"


def _details(result):
    """Return what can be opened below a student's `Result`, as HTML.

    It holds the verdict, the most frequent answers, the source of the reward, and a table of the eight
    questions with their numbers."""
    # `escape` everywhere: a student's or a model's text may hold HTML, and must be shown as text
    often = escape("; ".join(result.often))
    outcome_meaning = escape(outcomes.get(result.outcome, ""))
    curve = escape(curve_words(result.entry.run_log()))  # sentences on how the reward rose
    return ("<details><summary>verdict, reward and numbers</summary>"
            f"<p>{escape(result.sentence)}</p>"
            f"<p class='soft'>{escape(result.outcome)}: {outcome_meaning}. "
            f"Commonest answers after training: {often}. {curve}</p>"
            f"<pre>{escape(result.entry.reward)}</pre>"
            f'<div class="wide"><table>{_heads}{_question_rows(result.asked)}</table></div></details>')


def _question_rows(
    asked,  # dicts: question and detail are texts, answer is one of four known ones
):
    "Return the rows of a table in HTML: for each question its text, the answer and the numbers behind it"
    rows = []
    for question in asked:
        cells = (escape(question["question"]), f"<b>{question['answer']}</b>", escape(question["detail"]))
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "".join(rows)


_words = """Greedy: the best guess. Sampled: answers drawn by chance. Exact: the right count. To the letter:
in the truth's own words."""


def _legend(asked):
    """Return an HTML list of the eight questions, and below it what words and marks mean.

    `asked` is a list of dicts, one for each question, in the order of the marks in a student's row."""
    items = "".join(f"<li>{escape(q['question'])}</li>" for q in asked)
    return (f'<h2>The eight questions of chapter 06, from left to right</h2><ol class="eight">{items}</ol>'
            f'<p class="soft">{_words}</p>'
            '<p class="soft">✓ yes · ✗ no · ? cannot be told from so many pictures · – not measured</p>')


def curve_svg(
    values: list,  # the reward at each logged step
) -> str:  # empty for fewer than two values
    "Draw rewards as a small curve without axes, in SVG"
    if len(values) < 2:
        return ""
    label = f"reward from {values[0]:.2f} to {values[-1]:.2f}"
    # stretched to the width of its cell; the stroke is not stretched with it
    return (f'<svg viewBox="0 0 100 30" preserveAspectRatio="none" role="img" aria-label="{label}">'
            f'<path d="M{" L".join(_points(values))}" fill="none" stroke-width="1.5" '
            'vector-effect="non-scaling-stroke"/>'
            "</svg>")


def _points(values):
    "Return a point of the curve for each of two or more values: in a picture of 100 x 30, such as 50.0,27.0"
    # each curve fills its own height, since rewards of different students have different units
    low = min(values)
    span = (max(values) - low) or 1.0  # 1.0 avoids a division by zero where all values are equal
    points = []
    for place, value in enumerate(values):
        x = 100 * place / (len(values) - 1)
        y = 27 - 24 * (value - low) / span  # counted downwards: 27 for the lowest value, 3 for the highest
        points.append(f"{x:.1f},{y:.1f}")
    return points
