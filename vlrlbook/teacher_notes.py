"""TEACHER.md of a morning's class: what to do before, the clock, and for each notebook its goal, usual
mistakes and what to ask. Written by hand."""
from dataclasses import dataclass

from .morning_plan import lessons

__all__ = ["Notes", "notes", "teachers_page"]


@dataclass(frozen=True)
class Notes:
    "What a teacher should know about one notebook of the class"
    goal: str  # what a student can do afterwards, put behind "a student can"
    mistakes: tuple  # texts: a usual mistake, and what helps against it
    ask: tuple  # pairs (question to put to the class, its answer)


notes = {
    "1_why_it_learns": Notes(
        "say why a reward without a gradient can train a model, and what a group's mean is subtracted for",
        ("“The reward is the loss.” Nobody differentiates the reward: it weighs the gradient of the "
         "log-prob. Show the figure with the orange steps again.",
         "“The loss must fall.” Its value depends on the answers that were drawn. One watches the reward.",
         "“The model was shown the right answer.” It was told what its own answers were worth, and no more.",
         "In the exercise: the answer's own reward is left in the mean, or the sum of the others is "
         "divided by all."),
        (("All eight answers of a group are right. What does the model learn from them?",
          "Nothing: equal rewards have advantages of 0, whether all are right or all are wrong."),
         ("May one subtract 0.3 from all rewards?",
          "Yes. The mean gradient stays, and the spread of the estimates changes."),
         ("After 20 steps the twin says 3 to our picture. Can it count?",
          "No. It was paid for one sentence about one picture; the last table shows what it says to "
          "others."))),
    "2_rewards": Notes(
        "write a reward as a plain function, test it as a table, and name an answer that earns without "
        "deserving",
        ("A reward that reads the last word of a text: “3” and “3 discs” then differ. Let them use "
         "`read_count`.",
         "A reward that raises on an empty answer. `check_reward` says so; an untrained model does write "
         "nothing.",
         "Two tags of a kind, or crossed ones, pass the first pattern for the format. The truth table "
         "names the row.",
         "The best blind answer is taken over even truths: it must be weighed by how often each truth "
         "occurs."),
        (("Being off by one costs 0.15. What does a lazy model make of that?",
          "It always says a middle number and earns 0.75 without looking."),
         ("Which part of `counting_reward` would have told you?",
          "`exact`: it stays at a sixth, since one picture in six has three discs."),
         ("At temperature 0.2 nearly all groups are silent. What does that cost?",
          "Eight answers for each picture, from which nothing is learned."))),
    "3_grpo_and_verdict": Notes(
        "follow four answers from reward to step, and say of a finished run whether it got better and how "
        "they know",
        ("“The reward rose, so it is better.” Show the run that is paid for a 3.",
         "“71 % against 70 %: mine is better.” Equal answers to the eight questions share a place; see "
         "the intervals.",
         "“Cannot tell” is read as “no”. With few pictures it is what an honest test must say.",
         "In the exercise: the clip is put on both sides, so that a ratio that went the wrong way is "
         "forgiven.",
         "A reward without spread inside a group (nearly always 0, or nearly always 1) trains on silent "
         "groups."),
        (("Why is the loss near 0 while the model improves?",
          "Right after sampling every ratio is 1, and the advantages of a group add up to 0. The gradient "
          "is not 0."),
         ("What does the run with another picture test?",
          "Whether the model looks: with somebody else's picture it must now be wrong."),
         ("Your reward pays only for the exact sentence. What is slow about that?",
          "Near misses earn nothing, so many groups are silent."))),
}


def teachers_page() -> str:
    """Return the text of TEACHER.md, the teacher's guide to a class of one morning.

    It says what to do before the class, when each notebook begins, for each notebook its goal, usual mistakes
    and questions for the class, and at the end how the contest is ranked."""
    parts = [_before_class, _timetable()]
    # a section for each of the three notebooks
    parts += [_for_teacher(name, lesson) for name, lesson in lessons.items()]
    parts.append(_after_class)
    return "\n\n".join(parts) + "\n"


def _timetable():
    "Return the timetable of the morning as a Markdown table"
    rows = ["| from | what | minutes |", "|---|---|---|"]
    now = 9 * 60  # minutes after midnight: the class begins at nine
    for minutes, what in _parts_of_the_morning():
        rows.append(f"| {now // 60}:{now % 60:02d} | {what} | {minutes} |")
        now += minutes
    # _on_minutes: two sentences, that the minutes were never tried in a class
    return "## The morning\n\n" + "\n".join(rows) + f"\n\nEnds at {now // 60}:{now % 60:02d}. {_on_minutes}"


def _parts_of_the_morning():
    "Yield (minutes, description) for each part of the morning, in order"
    yield 10, "hello; the doctor's answers"
    for number, (name, lesson) in enumerate(lessons.items()):
        yield lesson.minutes, f"`{name}.ipynb`: {lesson.title}"
        # the last notebook is followed by the contest's results, without a break
        if number < len(lessons) - 1:
            yield 10, "break"
    yield 20, "the results page, read together"


def _for_teacher(
    name,  # of the notebook's file without .ipynb, such as "2_rewards"; a key of `notes`
    lesson,  # `Lesson` with minutes, the time that the class has for it
):
    "Return the section of TEACHER.md about one notebook, as Markdown"
    # goal, usual mistakes, and (question, answer) pairs for the class; an answer is set in italics
    own_notes = notes[name]
    mistakes = "\n".join(f"- {mistake}" for mistake in own_notes.mistakes)
    ask = "\n".join(f"- {question} *{answer}*" for question, answer in own_notes.ask)
    goal = f"**Goal.** Afterwards a student can {own_notes.goal}."
    return (f"## {name} ({lesson.minutes} minutes)\n\n{goal}\n\n"
            f"**Usual mistakes.**\n\n{mistakes}\n\n**Ask the class.**\n\n{ask}")


_on_minutes = """These minutes are a teacher's allowance, and no class has been timed with it. Write down what
yours takes."""

_before_class = """# A morning's class

Three notebooks, cut out of the chapters: what the package exports is imported and not listed. A cell
below *Your turn* is to be filled in, the cell behind it checks it, and a solution is folded away below.
*Run all* goes on behind a check that fails.

## Before the class

1. Every student: `pip install "vlrlbook[lab]"`, then `vlrlbook doctor`. It says in a minute what the
   laptop can do, and takes two training steps. Do this the day before, because the installation
   downloads torch.
2. Give out this folder. `jupyter lab` opens it.
3. A laptop on which training fails goes on with the book's run, which is in the package
   (`my_run_failed = True` in the third notebook). You can run such a student's reward on your own machine:
   `vlrlbook enter "Ada" mine.py:my_reward --folder contest`.
4. Slides of the three notebooks: `vlrlbook slides THIS_FOLDER`. It runs the notebooks, so that the
   figures are in the slides, and writes one HTML file each into `slides/`. Solutions are speaker's
   notes (press S). A browser fetches reveal.js and MathJax from the network; without one, teach
   from the notebooks.
5. Agree on the rules: `steps`, `pictures` and `warm_steps` in the third notebook must be the same for
   all, or their results are not ranked together. With slow laptops take fewer steps for everybody: then
   gains are smaller, and more questions are answered “cannot tell”. Try one run beforehand on the
   slowest laptop. On two idle CPU cores the page of chapter 05, with 400 steps in it, took five
   minutes; the stored run took nineteen, on two cores that had much other work. A reward that makes
   most groups silent takes longer, because such groups are drawn again."""

_after_class = """## The contest's results

Gather the students' files in one folder, in whatever way you have (a shared folder, a stick, mail),
then:

    vlrlbook contest FOLDER

It writes `FOLDER/results.html`: one page, ranked, that needs no network. Every file is marked again
from its answers, with truths that are drawn here; marks in a file would not be read. What it cannot
show: whether somebody changed answers by hand. Copy `stored/the_books_reward.json` into the folder if
the class should see the book's reward beside its own; it was made with 400 steps, and is ranked with a
class that took as many.

- The rank is the number of the eight questions that are answered yes, then the fewer no. Equal answers
  share a place. A run that collapsed, or is worse than its start, stands last, whatever its reward did.
- A damaged file, two files with one name, and other rules or pictures are named at the end of the page,
  each with one sentence. Two students of one name: change the name in the first line of one file.
- The same reward trained with another seed gives another run; chapter 05 shows how far its seeds are
  apart. Say so before somebody is proud or sad about a place."""
