"""What a morning's class is made of: which cells of which chapter, the few words around them, the teacher's page.

A step is `"chapter:cell id"`; ` from WORDS` behind it takes a text from the paragraph that begins with these
words, ` until WORDS` the paragraphs before it. `own` and `run` are cells that stand in no chapter. Written by
hand."""
from dataclasses import dataclass

__all__ = ["Own", "Lesson", "lessons", "own", "run", "teachers_page"]


@dataclass(frozen=True)
class Own:
    "A cell that stands in no chapter"
    kind: str  # code or markdown
    source: str
    tags: tuple = ()


@dataclass(frozen=True)
class Lesson:
    "One notebook of the class"
    minutes: int  # allowed for it
    title: str
    steps: tuple  # of texts and `Own`
    goal: str  # what a student can do afterwards
    mistakes: tuple  # usual ones, each with what helps
    ask: tuple  # (question, answer) to put to the class


def own(
    text: str,  # Markdown
) -> Own:
    "A cell of text"
    return Own("markdown", text)


def run(
    source: str,  # Python
    *tags: str,  # such as parameters
) -> Own:
    "A cell of code"
    return Own("code", source, tags)


def _cells(chapter, *steps):
    "Steps of one chapter, the chapter's name put before each"
    return tuple(step if isinstance(step, Own) else f"{chapter}:{step}" for step in steps)


_why = _cells(
    "000_why_it_learns",
    own("# 1. Why it learns\n\n> A model answers, a reward says how good the answer was, and after ten steps the model "
        "answers better. Why?\n\n20 minutes. Before the class, run `vlrlbook doctor` in a terminal: it says what this "
        "laptop can do. This notebook is a part of the chapter *Why it learns*. Words that are new stand in the "
        "[glossary](glossary.md)."),
    run("torch.manual_seed(0);  # the same draws whenever this page runs"),
    "w004", "w005", "w006", "w007", "w008", "w009", "w010",
    "w014 from ## The reward has no gradient", "w015", "w016", "w017", "w018", "w019", "w020",
    "w021 until Is the formula right?",
    "w024", "w025", "w026", "w028", "w029", "w030", "w031", "w032", "w033",
    "w035", "w036", "w037", "w039",
    "w050 from ## The same ten lines on a real model", "w051", "w052", "w053", "w054", "w055", "w056", "w057", "w058",
    "w060", "w061", "w062 until ## Three exercises",
    own("## Your turn"),
    "w062 from **Your turn", "w063", "w064",
)

_rewards = _cells(
    "02_rewards",
    own("# 2. Rewards\n\n> The reward is all that the model is told. You will write one, cheat one, and see which groups "
        "of answers teach nothing.\n\n40 minutes. This notebook is a part of chapter 02."),
    "c004", "c005",
    own("`read_count` finds the number in each answer:"),
    "c008", "c009", "c010", "c011", "c012", "c013",
    "c018", "c019", "n4c48e52", "nce3bc42", "c020", "ne193b7d", "ned95a8a", "n774987f",
    "c032 until Rewards are added up",
    own("Rewards are added up, and the parts are kept: a curve of the sum hides which of them moved. `mix` makes one "
        "reward of several, and keeps every part by name."),
    "c033", "c034",
    "n02verb0", "n02verb1", "n02verb2",
    "c037", "c038", "c039", "n26m02b", "n26e02b", "n26c02b", "c041", "c042", "c043",
    "c045", "c046", "c047", "c048", "c049", "c051", "c052", "c053",
    own("## Your turn: a reward of your own\n\nYou will train with a reward of your own in the next notebook. Here is "
        "the way to write one: `check_reward` tries it on right, empty and very long answers, and says what is wrong."),
    "c063 from **Last exercise", "nbb6f2ab", "ncf790ba",
)

_before_the_run = _cells(
    "05_grpo",
    own("# 3. GRPO and the verdict\n\n> Four answers become one step. 400 steps become a run. Did the model get better? "
        "Then your own reward.\n\n60 minutes, of which a run takes some: start yours early (*The contest*, below) and "
        "read on while it trains. This notebook is a part of chapters 05 and 06.\n\nThe cell below holds what the "
        "whole class shares. Change the name, and leave the rest as your teacher says."),
    run('name = "my name"  # yours, or that of your group: the results page shows it\n'
        'folder = "contest"  # where the file that you hand in is written\n'
        "steps = 400  # of training; the same for the whole class\n"
        "pictures = 500  # frozen ones that are asked before and after; the same for the whole class\n"
        "warm_steps = 280  # of the supervised start; the same for the whole class\n"
        "train_the_books_reward = False  # True: train it on this laptop too; False: load the stored run\n"
        "my_run_failed = False  # True: go on with a stored run in place of your own", "parameters"),
    run("from vlrlbook.core import quiet_libraries\n\nquiet_libraries()"),
    "c013", "c014", "n075c80d", "n786ffd2", "n05adv1", "c015", "c016", "c017", "n7f46f90", "c018", "c019", "c020", "c021",
    "c022", "c023", "c024", "n18f9789", "n5ffd904", "nf0277e8", "n35d1df9", "neea923c", "c025", "c026", "c027", "nd17bb18",
    "n29d672e", "c029", "c032 from ## Groups that teach nothing", "n53a6b57",
)

_the_run = (
    own("## A run\n\nThe book's own reward pays mostly for the exact sentence, and a little for a near miss. This run was "
        "made with it and is stored in the package, so that nobody has to wait. With `train_the_books_reward = True` "
        "your laptop makes it again."),
    run('''from vlrlbook.contest import Rules, checked_reward, enter, stored_entry
from vlrlbook.rewards import counting_reward, verbatim_reward

rules = Rules(steps=steps, pictures=pictures, warm_steps=warm_steps)

def the_books_reward(completion, truth):
    exact = verbatim_reward(completion, truth)["overall"]
    near = counting_reward(completion, truth)["overall"]
    return 0.8 * exact + 0.2 * near

if train_the_books_reward: book = enter("the book's reward", the_books_reward, "runs", rules, again=True)
else: book = stored_entry("the_books_reward")
book.run_log()'''),
    own("*Reward, silent groups, length and gradient over the steps. Faint lines are single rows of the log, strong ones "
        "are smoothed.*\n\nA curve that rises is not proof. The model was asked about frozen pictures that no training "
        "has seen, before and after. These are some of its best guesses:"),
    run('Table([dict(truth=r["answer"], before=r["before_greedy"][0], after=r["after_greedy"][0],\n'
        '            with_another_picture=r["after_shuffled"][0]) for r in book.rows[:8]])'),
    "06_evaluation:c068 from ## Flips",
    run("from vlrlbook.marking import greedy_flips\n\n"
        'Table([greedy_flips(book.rows, "counting")])'),
    "06_evaluation:c078",
    "06_evaluation:c105 from ## One table, eight questions",
    run("from vlrlbook.standings import judge\n\n"
        "found = judge(book)\n"
        "Table(found.asked)"),
    own("One word and one sentence for it:"),
    run("print(found.outcome, found.sentence, sep=\"\\n\")"),
    own("Not every reward ends so well. This stored run was paid for a 3 in the answer, whatever the picture shows:"),
    run('def likes_three(completion, truth): return float("3" in completion)\n\n'
        'three = stored_entry("likes_three")\n'
        "print(three.reward, judge(three).sentence, sep=\"\\n\")\n"
        "three.run_log()"),
    own("*The reward rises as a curve should. Only the answers to the frozen pictures show what happened.*"),
)

_the_contest = (
    own("## The contest\n\nWrite a reward: a function of the completion, which is what the model wrote, and of the truth. "
        "It returns a number, or a dict of numbers with `overall` in it. The one below is a beginning; make it yours.\n\n"
        "Everybody trains the same model, from the same start, on the same pictures, for the same number of steps, and "
        "is asked about the same frozen pictures. So only your reward makes the difference. Ideas: pay for near misses, "
        "for the sentence, for short answers, for nothing but the number. Which of them can be cheated?"),
    run('''def my_reward(completion, truth):
    "1 for the right sentence, 0 for anything else"
    return float(completion.strip() == truth.strip())'''),
    own("What does it pay?"),
    run('''tried = checked_reward(my_reward)
Table([dict(answer=text, pays=tried(text, "A photo of 3 discs")["overall"]) for text in
       ("A photo of 3 discs", "A photo of 4 discs", "A photo of 3 4 discs", "3", "some discs", "")])'''),
    own("Would eight answers of one group still differ? If most groups earn eight times the same, the run learns slowly. "
        "If a text that says nothing earns most, the run will say nothing. When you are content, train. The whole page of "
        "chapter 05, with such a run in it, takes about five minutes on two CPU cores. If yours fails, set `my_run_failed = True` in the first cell of code "
        "and run that cell and this one again: you go on with a stored run, and your teacher can run your reward for you "
        "(`vlrlbook enter \"your name\" mine.py:my_reward`)."),
    run("if my_run_failed: mine = stored_entry(\"near_is_nearly_right\")\n"
        "else: mine = enter(name, my_reward, folder, rules, again=True)\n"
        "mine.run_log()", "trains"),
    own("Before you look: what do you expect of each of the eight questions?"),
    run("result = judge(mine)\nprint(result.outcome, result.sentence, sep=\"\\n\")\nTable(result.asked)"),
    own("## Hand in\n\nYour file stands in the folder `contest`, with your name. It holds the source of your reward, the "
        "log and all answers, and no marks: they are given again when the files are gathered. Give it to your teacher, "
        "who gathers the class:\n\n    vlrlbook contest FOLDER\n\nThe page `results.html` then ranks the class. The same "
        "for the files in your own folder:"),
    run("from pathlib import Path\n"
        "from vlrlbook.standings import gather\n\n"
        "gather(folder) if any(Path(folder).glob(\"*.json\")) else \"nothing to gather yet\""),
    own("## What to take home\n\n1. Which of your expectations was wrong?\n2. Whose reward rose most while training, and "
        "whose answers became better?\n3. Two runs are one picture apart. Is one of them better?\n4. What would you "
        "measure before you believe a learning curve of somebody else?"),
)

lessons = {
    "1_why_it_learns": Lesson(
        20, "Why it learns", _why,
        "say why a reward without a gradient can train a model, and what a group's mean is subtracted for",
        ("“The reward is the loss.” Nobody differentiates the reward: it weighs the gradient of the log-prob. Show the "
         "figure with the orange steps again.",
         "“The loss must fall.” Its value depends on the answers that were drawn. One watches the reward.",
         "“The model was shown the right answer.” It was told what its own answers were worth, and no more.",
         "In the exercise: the answer's own reward is left in the mean, or the sum of the others is divided by all."),
        (("All eight answers of a group are right. What does the model learn from them?",
          "Nothing: equal rewards have advantages of 0, whether all are right or all are wrong."),
         ("May one subtract 0.3 from all rewards?",
          "Yes. The mean gradient stays, and the spread of the estimates changes."),
         ("After 20 steps the twin says 3 to our picture. Can it count?",
          "No. It was paid for one sentence about one picture; the last table shows what it says to others."))),
    "2_rewards": Lesson(
        40, "Rewards", _rewards,
        "write a reward as a plain function, test it as a table, and name an answer that earns without deserving",
        ("A reward that reads the last word of a text: “3” and “3 discs” then differ. Let them use `read_count`.",
         "A reward that raises on an empty answer. `check_reward` says so; an untrained model does write nothing.",
         "Two tags of a kind, or crossed ones, pass the first pattern for the format. The truth table names the row.",
         "The best blind answer is taken over even truths: it must be weighed by how often each truth occurs."),
        (("Being off by one costs 0.15. What does a lazy model make of that?",
          "It always says a middle number and earns 0.75 without looking."),
         ("Which part of `counting_reward` would have told you?",
          "`exact`: it stays at a sixth, since one picture in six has three discs."),
         ("At temperature 0.2 nearly all groups are silent. What does that cost?",
          "Eight answers for each picture, from which nothing is learned."))),
    "3_grpo_and_verdict": Lesson(
        60, "GRPO, the verdict and the contest", _before_the_run + _the_run + _the_contest,
        "follow four answers from reward to step, and say of a finished run whether it got better and how they know",
        ("“The reward rose, so it is better.” Show the run that is paid for a 3.",
         "“71 % against 70 %: mine is better.” Equal answers to the eight questions share a place; see the intervals.",
         "“Cannot tell” is read as “no”. With few pictures it is what an honest test must say.",
         "In the exercise: the clip is put on both sides, so that a ratio that went the wrong way is forgiven.",
         "A reward without spread inside a group (nearly always 0, or nearly always 1) trains on silent groups."),
        (("Why is the loss near 0 while the model improves?",
          "Right after sampling every ratio is 1, and the advantages of a group add up to 0. The gradient is not 0."),
         ("What does the run with another picture test?",
          "Whether the model looks: with somebody else's picture it must now be wrong."),
         ("Your reward pays only for the exact sentence. What is slow about that?",
          "Near misses earn nothing, so many groups are silent."))),
}


def teachers_page() -> str:
    "TEACHER.md: before the class, the clock, and for each notebook its goal, usual mistakes and what to ask"
    parts = [_before_class, _clock(), *(_for_teacher(name, lesson) for name, lesson in lessons.items()), _after_class]
    return "\n\n".join(parts) + "\n"


def _clock():
    "The table of the morning"
    rows = ["| from | what | minutes |", "|---|---|---|"]
    now = 9 * 60
    for minutes, what in _order():
        rows.append(f"| {now // 60}:{now % 60:02d} | {what} | {minutes} |")
        now += minutes
    return "## The morning\n\n" + "\n".join(rows) + f"\n\nEnds at {now // 60}:{now % 60:02d}. {_allowed}"


def _order():
    "(minutes, what) of a morning, with two breaks"
    yield 10, "hello; the doctor's answers"
    for number, (name, lesson) in enumerate(lessons.items()):
        yield lesson.minutes, f"`{name}.ipynb`: {lesson.title}"
        if number < len(lessons) - 1:
            yield 10, "break"
    yield 20, "the results page, read together"


def _for_teacher(name, lesson):
    "One notebook on the teacher's page"
    mistakes = "\n".join(f"- {one}" for one in lesson.mistakes)
    ask = "\n".join(f"- {question} *{answer}*" for question, answer in lesson.ask)
    return (f"## {name} ({lesson.minutes} minutes)\n\n**Goal.** Afterwards a student can {lesson.goal}.\n\n"
            f"**Usual mistakes.**\n\n{mistakes}\n\n**Ask the class.**\n\n{ask}")


_allowed = """These minutes are a teacher's allowance, and no class has been timed with it. Write down what yours takes."""

_before_class = """# A morning's class

Three notebooks, cut out of the chapters: what the package exports is imported and not listed. A cell below *Your
turn* is to be filled in, the cell behind it checks it, and a solution is folded away below. *Run all* goes on
behind a check that fails.

## Before the class

1. Every student: `pip install "vlrlbook[lab]"`, then `vlrlbook doctor`. It says in a minute what the laptop can
   do, and takes two training steps. Do this the day before, because the installation downloads torch.
2. Give out this folder. `jupyter lab` opens it.
3. A laptop on which training fails goes on with stored runs, which are in the package (`my_run_failed = True` in
   the third notebook). You can run such a student's reward on your own machine:
   `vlrlbook enter "Ada" mine.py:my_reward --folder contest`.
4. Slides of the three notebooks: `vlrlbook slides THIS_FOLDER`. It runs the notebooks, so that the figures are in
   the slides, and writes one HTML file each into `slides/`. Solutions are speaker's notes (press S). A browser
   fetches reveal.js from the network; without one, give the folder of a copy: `--reveal reveal.js`.
5. Agree on the rules: `steps`, `pictures` and `warm_steps` in the third notebook must be the same for all, or
   their results are not ranked together. With slow laptops take fewer steps for everybody: then gains are
   smaller, and more questions are answered “cannot tell”."""

_after_class = """## The contest's results

Gather the students' files in one folder, in whatever way you have (a shared folder, a stick, mail), then:

    vlrlbook contest FOLDER

It writes `FOLDER/results.html`: one page, ranked, that needs no network. Every file is marked again from its
answers, with truths that are drawn here; marks in a file would not be read. What it cannot show: whether somebody
changed answers by hand. Copy the files of `stored/` into the folder if the class should see the book's own runs
beside its own.

- The rank is the number of the eight questions that are answered yes, then the fewer no. Equal answers share a
  place. A run that collapsed, or is worse than its start, stands last, whatever its reward did.
- A damaged file, two files with one name, and other rules or pictures are named at the end of the page, each with
  one sentence. Two students of one name: change the name in the first line of one file.
- The same reward trained twice with another seed can get another answer to a question or two. Say so before
  somebody is proud or sad about a place."""
