"""What a morning's class is made of: which cells of which chapter, the few words around them, in their
order.

A step is `"chapter:cell id"`; ` from WORDS` behind it takes a text from the paragraph that begins with these
words, ` until WORDS` the paragraphs before it. `own` and `run` are cells that stand in no chapter. Written by
hand."""
from dataclasses import dataclass

__all__ = ["Own", "Lesson", "lessons", "own", "run"]


@dataclass(frozen=True)
class Own:
    "A cell that was written for the class, and is in no chapter"
    kind: str  # "code" or "markdown"
    source: str  # Python code, or Markdown
    tags: tuple = ()  # of the cell, such as "parameters"


@dataclass(frozen=True)
class Lesson:
    "One notebook of the class"
    minutes: int  # that the class has for it
    title: str
    steps: tuple  # its cells: texts such as "02_rewards:c004" (chapter and id of a cell), or `Own`


def own(
    text: str,  # Markdown
) -> Own:
    "A cell of text that was written for this morning's class, and is taken from no chapter of the book"
    return Own("markdown", text)


def run(
    source: str,  # Python
    *tags: str,  # of the cell, such as "parameters"
) -> Own:
    "A cell of code that was written for this morning's class, and is taken from no chapter of the book"
    return Own("code", source, tags)


def _cells(chapter, *steps):
    "Put the chapter's name before each id of a cell (c004 → 02_rewards:c004); a step that is an `Own` stays"
    return tuple(step if isinstance(step, Own) else f"{chapter}:{step}" for step in steps)


_why = _cells(
    "000_why_it_learns",
    own("""# 1. Why it learns

> A model answers, a reward says how good the answer was, and after ten steps the model answers better.
> Why?

20 minutes. Before the class, run `vlrlbook doctor` in a terminal: it says what this laptop can do. This
notebook is a part of the chapter *Why it learns*. Words that are new stand in the
[glossary](glossary.md)."""),
    run("torch.manual_seed(0);  # the same draws whenever this page runs"),
    "w004", "w005", "w006", "w007", "w008", "w009", "w010",
    "w014 from ## The reward has no gradient", "w015", "w016", "w017", "w018", "w019", "w020",
    "w021 until Is the formula right?",
    "w024", "w025", "w026", "w028", "w029", "w030", "w031", "w032", "w033",
    "w035", "w036", "w037", "w039",
    "w050 from ## The same ten lines on a real model", "w051", "w052", "w053", "w054", "w055", "w056",
    "w057", "w058", "w060", "w061", "w062 until ## Three exercises",
    own("## Your turn"),
    "w062 from **Your turn", "w063", "w064",
)

_rewards = _cells(
    "02_rewards",
    own("""# 2. Rewards

> The reward is all that the model is told. You will write one, cheat one, and see which groups of
> answers teach nothing.

40 minutes. This notebook is a part of chapter 02."""),
    "c004", "c005",
    own("`read_count` finds the number in each answer:"),
    "c008", "c009", "c010", "c011", "c012", "c013",
    "c018", "c019", "nce3bc42", "c020", "ne193b7d", "ned95a8a", "n774987f",
    "c032", "c033", "c034",
    "n02verb0", "n02verb1", "n02verb2",
    "c037", "c038", "c039", "n26m02b", "n26e02b", "n26c02b", "c041", "c042", "c043",
    "c045", "c046", "c047", "c048", "c049", "c051", "c052", "c053",
    own("""## Your turn: a reward of your own

You will train with a reward of your own in the next notebook. Here is the way to write one:
`check_reward` tries it on right, empty and very long answers, and says what is wrong."""),
    "c063 from **Last exercise", "nbb6f2ab", "ncf790ba",
)

_before_the_run = _cells(
    "05_grpo",
    own("""# 3. GRPO and the verdict

> Four answers become one step. 400 steps become a run. Did the model get better? Then your own reward.

60 minutes, of which a run takes some: start yours early (*The contest*, below) and read on while it
trains. This notebook is a part of chapters 05 and 06.

The cell below holds what the whole class shares. Change the name, and leave the rest as your teacher
says."""),
    run("""name = "my name"  # yours, or that of your group: the results page shows it
folder = "contest"  # where the file that you hand in is written
steps = 400  # of training; the same for the whole class
pictures = 500  # frozen ones that are asked before and after; the same for the whole class
warm_steps = 280  # of the supervised start; the same for the whole class
train_the_books_reward = False  # True: train it on this laptop too; False: load the stored run
my_run_failed = False  # True: go on with the book's run in place of your own""", "parameters"),
    run("""from vlrlbook.core import quiet_libraries

quiet_libraries()"""),
    "c013", "c014", "n075c80d", "n786ffd2", "n05adv1", "c015", "c016", "c017", "n7f46f90", "c018", "c019",
    "c020", "c021", "c022", "c023", "c024", "n18f9789", "n5ffd904", "nf0277e8", "n35d1df9", "neea923c",
    "c025", "c026", "c027", "nd17bb18", "n29d672e", "c029", "c032 from ## Groups that teach nothing", "n53a6b57",
)

_the_run = (
    own("""## A run

The book's own reward pays mostly for the exact sentence, and a little for a near miss. This run was
made with it and is stored in the package, so that nobody has to wait. With `train_the_books_reward =
True` your laptop makes it again."""),
    run("""from vlrlbook.contest import checked_reward, enter
from vlrlbook.contest_files import Rules, stored_entry
from vlrlbook.rewards import counting_reward, verbatim_reward

rules = Rules(steps=steps, pictures=pictures, warm_steps=warm_steps)

def the_books_reward(completion, truth):
    exact = verbatim_reward(completion, truth)["overall"]
    near = counting_reward(completion, truth)["overall"]
    return 0.8 * exact + 0.2 * near

if train_the_books_reward: book = enter("the book's reward", the_books_reward, "runs", rules, again=True)
else: book = stored_entry()
book.run_log()"""),
    own("""*Reward, silent groups, length and gradient over the steps. Faint lines are single rows of the log,
strong ones are smoothed.*

A curve that rises is not proof. The model was asked about frozen pictures that this training
has not seen,
before and after. These are some of its best guesses:"""),
    run("""Table([dict(truth=r["answer"], before=r["before_greedy"][0], after=r["after_greedy"][0],
            with_another_picture=r["after_shuffled"][0]) for r in book.rows[:8]])"""),
    "06_evaluation:c068 from ## Flips",
    run("""from vlrlbook.marking import greedy_flips

flipped = greedy_flips(book.rows, "counting")
Table([flipped | dict(p=f"{flipped['p']:.1g}")])"""),
    "06_evaluation:c078",
    "06_evaluation:c105 from ## One table, eight questions",
    run("""from vlrlbook.standings import judge

found = judge(book)
Table(found.asked)"""),
    own("One word and one sentence for it:"),
    run("print(found.outcome, found.sentence, sep=\"\\n\")"),
    own("""Not every reward ends so well. This stored run of 80 steps was paid for a 3 in the answer, whatever
the picture shows:"""),
    run("""def likes_three(completion, truth): return float("3" in completion)

three = stored_entry("likes_three")
print(three.reward, judge(three).sentence, sep="\\n")
three.run_log()"""),
    own("*The reward rises as a curve should. Only the answers to the frozen pictures show what happened.*"),
)

_the_contest = (
    own("""## The contest

Write a reward: a function of the completion, which is what the model wrote, and of the truth. It
returns a number, or a dict of numbers with `overall` in it. The one below is a beginning; make it
yours.

Everybody trains the same model, from the same start, on the same pictures, for the same number of
steps, and is asked about the same frozen pictures. So only your reward makes the difference. Ideas: pay
for near misses, for the sentence, for short answers, for nothing but the number. Which of them can be
cheated?"""),
    run("""def my_reward(completion, truth):
    "1 for the right sentence, 0 for anything else"
    return float(completion.strip() == truth.strip())"""),
    own("What does it pay?"),
    run("""tried = checked_reward(my_reward)
Table([dict(answer=text, pays=tried(text, "A photo of 3 discs")["overall"]) for text in
       ("A photo of 3 discs", "A photo of 4 discs", "A photo of 3 4 discs", "3", "some discs", "")])"""),
    own("""Would eight answers of one group still differ? If most groups earn eight times the same, the run
learns slowly. If a text that says nothing earns most, the run will say nothing. When you are content, train.
The whole page of chapter 05, with such a run in it, takes about five minutes on two CPU cores. If yours
fails, set `my_run_failed = True` in the first cell of code and run that cell and this one again: you go
on with the book's run, and your teacher can run your reward for you (`vlrlbook enter "your name"
mine.py:my_reward`)."""),
    run("""if my_run_failed: mine = stored_entry()
else: mine = enter(name, my_reward, folder, rules, again=True)
mine.run_log()""", "trains"),
    own("Before you look: what do you expect of each of the eight questions?"),
    run("""result = judge(mine)
print(result.outcome, result.sentence, sep="\\n")
Table(result.asked)"""),
    own("""## Hand in

Your file stands in the folder `contest`, with your name. It holds the source of your reward, the log
and all answers, and no marks: they are given again when the files are gathered. Give it to your
teacher, who gathers the class:

    vlrlbook contest FOLDER

The page `results.html` then ranks the class. The same for the files in your own folder:"""),
    run('''from pathlib import Path
from vlrlbook.standings import gather

gather(folder) if any(Path(folder).glob("*.json")) else "nothing to gather yet"'''),
    own("""## What to take home

1. Which of your expectations was wrong?
2. Whose reward rose most while training, and whose answers became better?
3. Two runs are one picture apart. Is one of them better?
4. What would you measure before you believe a learning curve of somebody else?"""),
)

lessons = {
    "1_why_it_learns": Lesson(20, "Why it learns", _why),
    "2_rewards": Lesson(40, "Rewards", _rewards),
    "3_grpo_and_verdict": Lesson(60, "GRPO, the verdict and the contest",
                                 _before_the_run + _the_run + _the_contest),
}
