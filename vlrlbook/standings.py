"""The results of a class: a folder of small files becomes one ranked page.

Every file is marked here, from its answers and with truths that are drawn here; a mark that somebody wrote
into a file would not be read. A file that cannot be ranked is named on the page, with one sentence that says
why, and the others are ranked all the same. The page is one file without a script. Written by hand."""
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from .contest_files import ContestError, Entry, Rules, fingerprint, read_entry
from .folders import write_whole
from .marking import counted
from .results_page import standings_html
from .rewards import is_right
from .verdict import questions, verdict_of

__all__ = ["Result", "judge", "Standings", "gather", "ranked", "write_standings"]

# Outcomes that stand behind all others, however many questions were answered yes: such a run broke the model.
last_of_all = ("collapsed", "worse")


@dataclass
class Result:
    "An entry with its marks"
    entry: Entry
    outcome: str  # a word of `verdict.outcomes`
    sentence: str  # of the verdict
    asked: list  # the eight questions of chapter 06 in their order: name, question, answer, detail
    before: float  # share of best guesses that were right before training
    after: float  # the same afterwards
    often: list  # the commonest answers after training, counted
    place: int = 0  # filled in by `gather`

    @property
    def yes(self) -> int:
        "How many of the eight questions are answered yes"
        return sum(q["answer"] == "yes" for q in self.asked)

    @property
    def no(self) -> int:
        "How many are answered no; the rest cannot be told"
        return sum(q["answer"] == "no" for q in self.asked)

    def rank_key(self) -> tuple:
        "Sorted by this, the best comes first; who has the same key has the same place"
        return self.outcome in last_of_all, -self.yes, self.no


def judge(
    entry: Entry,  # from `read_entry`
) -> Result:
    "An entry's verdict and its answers to chapter 06's eight questions"
    # the task's own reward is used for marks: the student's function is never run here
    found = verdict_of(entry.rows, "counting")
    answered = {q["name"]: q for q in found["questions"]}
    asked = []
    # asked of nothing, the questions come back unanswered: their names and their order are chapter 06's
    for question in questions([], None, "counting"):
        own = answered.get(question["name"], dict(answer="not measured", detail=""))
        found_here = dict(answer=own["answer"], detail=own["detail"])
        asked.append(dict(name=question["name"], question=question["question"]) | found_here)
    after = [row["after_greedy"][0] for row in entry.rows]
    return Result(entry, found["outcome"], found["sentence"], asked, _share(entry.rows, "before_greedy"),
                  _share(entry.rows, "after_greedy"), counted(after)[:3])


def _share(rows, column):
    "The share of rows whose first answer is right"
    # of a greedy column there is one answer
    return sum(is_right(row[column][0], row["answer"]) for row in rows) / len(rows)


@dataclass
class Standings:
    "A class's results, best first; shows itself as a table in a notebook"
    results: list = field(default_factory=list)  # of `Result`
    refused: list = field(default_factory=list)  # a sentence for each file that is not ranked
    rules: Rules | None = None  # of the class
    pictures: str = ""  # fingerprint of the frozen pictures

    def __repr__(self):
        lines = []
        for one in self.results:
            lines.append(f"{one.place}. {one.entry.name}: {one.yes} of {len(one.asked)} yes, {one.outcome}")
        return "\n".join([*lines, *(f"not ranked: {sentence}" for sentence in self.refused)])

    def _repr_html_(self):
        return standings_html(self, whole=False)


def gather(
    folder: str | Path,  # with the students' files
) -> Standings:
    "Read, mark and rank every file of a folder; ContestError where there is none"
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise ContestError(f"{folder}: no result of a student (.json) is there")
    standings = Standings()
    entries = _read(paths, standings.refused)
    entries = _of_one_name(entries, standings.refused)
    entries = _of_one_contest(entries, standings)
    standings.results = ranked([judge(entry) for entry in entries.values()])
    return standings


def ranked(
    results: list,  # of `Result`, in any order
) -> list:  # the same, best first, each with its place
    "Results in their order; equal answers to the eight questions share a place, whatever the gains are"
    results = sorted(results, key=_order)
    # the first of several equal keys gives all of them its number
    keys = [one.rank_key() for one in results]
    for one, key in zip(results, keys):
        one.place = 1 + keys.index(key)
    return results


def _order(one):
    "The key of the ranking; inside a place the larger gain comes first, then the name"
    return one.rank_key(), one.before - one.after, one.entry.name


def _read(paths, refused):
    "File name → entry of every file that can be read; a sentence for each other one"
    entries, seen = {}, set()
    for path in paths:
        try:
            # first, for it looks at a file's size before its content
            entry = read_entry(path)
            content = path.read_bytes()
            # the same file, handed in twice, counts once
            if content not in seen:
                entries[path.name] = entry
        except (ContestError, OSError) as error:
            refused.append(str(error))
            continue
        seen.add(content)
    return entries


def _of_one_name(entries, refused):
    "The entries whose name no other one has: nobody can tell which of two would count"
    files = {}
    # upper and lower case are the same name: on a page one would not tell them apart
    for file, entry in entries.items():
        files.setdefault(entry.name.lower(), []).append(file)
    for same in files.values():
        if len(same) > 1:
            name = entries[same[0]].name
            refused.append(f"{' and '.join(same)} are both from “{name}”, so neither is ranked: "
                           "change the name in the first line of one of them")
    return {same[0]: entries[same[0]] for same in files.values() if len(same) == 1}


def _of_one_contest(entries, standings):
    "The entries that were made under the rules of most, and on the pictures that are drawn here"
    if not entries:
        return entries
    # a student with other rules must not shut out the class, so most of the files decide
    common = Counter(entry.rules for entry in entries.values()).most_common(1)[0][0]
    standings.rules, standings.pictures = common, fingerprint(common)
    kept = {}
    for file, entry in entries.items():
        if entry.rules != common:
            standings.refused.append(f"{file}: {_other_rules(entry.rules, common)}")
        elif entry.pictures != standings.pictures:
            here = f"not those that are drawn here ({standings.pictures})"
            standings.refused.append(f"{file}: its pictures ({entry.pictures[:16]}) are {here}")
        else:
            kept[file] = entry
    return kept


def _other_rules(own, common):
    "What differs between the rules of one file and those of most"
    differ = []
    # only what differs is named, so that the sentence stays short
    for name, value in vars(own).items():
        if value != vars(common)[name]:
            differ.append(f"{name} = {value}, most have {vars(common)[name]}")
    return f"made under other rules ({'; '.join(differ)})"


def write_standings(
    folder: str | Path,  # with the students' files
    out: str | Path | None = None,  # the page; None: results.html in the folder
) -> tuple:  # path of the page, Standings
    "Gather a folder and write its page, whole or not at all"
    standings = gather(folder)
    path = Path(out) if out else Path(folder) / "results.html"
    write_whole(path, standings_html(standings))
    return path, standings
