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

# Runs with these outcomes are ranked below all others, however many questions are answered yes: they made the
# model worse.
last_of_all = ("collapsed", "worse")


@dataclass
class Result:
    "A student's entry with its marks and its place in the class"
    entry: Entry
    outcome: str  # verdict on the run in a word or two: a key of `verdict.outcomes`, such as "collapsed"
    sentence: str  # the verdict as a sentence
    asked: list  # a dict for each of chapter 06's eight questions: name, question, answer, detail
    before: float  # share of frozen pictures with a right greedy answer, before training
    after: float  # share of frozen pictures with a right greedy answer, after training
    often: list  # the three most frequent greedy answers after training, such as "7 × A photo of 3 discs"
    place: int = 0  # from 1 on; filled in by `ranked`

    @property
    def yes(self) -> int:
        "Count the questions, of chapter 06's eight about a gain, that are answered yes"
        return sum(question["answer"] == "yes" for question in self.asked)

    @property
    def no(self) -> int:
        "Count the questions that are answered no; others are answered yes, cannot tell or not measured"
        return sum(question["answer"] == "no" for question in self.asked)

    def rank_key(self) -> tuple:
        "Return the key by which results are sorted, the best first; results with equal keys share a place"
        # False sorts before True; then more yes, then fewer no
        return self.outcome in last_of_all, -self.yes, self.no


def judge(
    entry: Entry,  # from `read_entry`
) -> Result:
    """Mark a student's entry: a verdict on the run, and answers to chapter 06's eight questions about a gain.

    The marks come from the model's answers alone; the student's reward function is never run here."""
    verdict = verdict_of(entry.rows, "counting")  # a dict of outcome, sentence and questions
    asked = _all_eight_questions(verdict["questions"])
    answers_after = [row["after_greedy"][0] for row in entry.rows]  # a list of one text in each row
    most_frequent = counted(answers_after)[:3]  # texts such as "7 × A photo of 3 discs"
    return Result(entry, outcome=verdict["outcome"], sentence=verdict["sentence"], asked=asked,
                  before=_right_share(entry.rows, "before_greedy"),
                  after=_right_share(entry.rows, "after_greedy"), often=most_frequent)


def _all_eight_questions(
    answered,  # dicts from a verdict: name, question, answer, detail; those not measured are left out there
):
    "Chapter 06's eight questions in their order: such dicts, with \"not measured\" for those left out"
    answer_of = {question["name"]: question for question in answered}
    asked = []
    # without metrics: all questions of the contest's task, none of them answered
    all_eight = questions([], None, "counting")
    for question in all_eight:
        answered_one = answer_of.get(question["name"], dict(answer="not measured", detail=""))
        asked.append(dict(name=question["name"], question=question["question"],
                          answer=answered_one["answer"], detail=answered_one["detail"]))
    return asked


def _right_share(rows, column):
    "Return the share of rows whose first answer in a column such as after_greedy is right, from 0 to 1"
    # row["answer"] is the truth. A greedy column has one answer in each row.
    return sum(is_right(row[column][0], row["answer"]) for row in rows) / len(rows)


@dataclass
class Standings:
    "The results of a class, best first; a notebook shows them as a table"
    results: list = field(default_factory=list)  # of `Result`
    refused: list = field(default_factory=list)  # a sentence for each file that is not ranked: why
    rules: Rules | None = None  # those of the class; None if no file could be read
    pictures: str = ""  # fingerprint of the frozen pictures that are drawn on this machine

    def __repr__(self):
        lines = []
        for result in self.results:
            yes_count = f"{result.yes} of {len(result.asked)} yes"
            lines.append(f"{result.place}. {result.entry.name}: {yes_count}, {result.outcome}")
        lines += [f"not ranked: {sentence}" for sentence in self.refused]
        return "\n".join(lines)

    def _repr_html_(self):
        # whole=False: a part of the notebook's page, and no page of its own
        return standings_html(self, whole=False)


def gather(
    folder: str | Path,  # with the students' files (.json)
) -> Standings:
    """Read, mark and rank the files of all students in a folder.

    A file that cannot be ranked is left out, with a sentence about it in `refused` of the result. A folder
    without files raises ContestError."""
    paths = sorted(Path(folder).glob("*.json"))
    if not paths:
        raise ContestError(f"{folder}: no result of a student (.json) is there")
    standings = Standings()
    # file name → Entry; each step drops files, and adds a sentence for each to `standings.refused`
    entries = _read_files(paths, standings.refused)
    entries = _without_same_names(entries, standings.refused)
    entries = _with_same_rules(entries, standings)
    standings.results = ranked([judge(entry) for entry in entries.values()])
    return standings


def ranked(
    results: list,  # of `Result`, in any order
) -> list:  # the same results, best first, each with its place filled in
    """Sort the results of a class, and give each its place.

    It depends on the verdict and on how many of chapter 06's eight questions are answered yes and no. Within
    a place the gain only sets the order: a gain that is larger by a few pictures may be chance."""
    results = sorted(results, key=_sort_key)  # by `rank_key`; equal ones by the larger gain, then by name
    keys = [result.rank_key() for result in results]
    for result, key in zip(results, keys):
        # of equal keys `index` finds the first, so all of them get its place
        result.place = 1 + keys.index(key)
    return results


def _sort_key(result):
    "Return the key that sorts results: by rank, inside a place the larger gain first, then by name"
    minus_gain = result.before - result.after  # shares of right answers; the smallest key comes first
    return result.rank_key(), minus_gain, result.entry.name


def _read_files(paths, refused):
    """Read the students' files, and return a dict: file name → Entry, what a student handed in.

    Of two files with equal bytes, the second one is left out without a word: it is a copy. For a file that
    cannot be read, a sentence with the reason is appended to the list `refused`."""
    entries, contents = {}, set()  # contents: the bytes of all files so far, to leave copies out
    for path in paths:
        try:
            # before `read_bytes`, since `read_entry` refuses a file that is too large
            entry = read_entry(path)
            content = path.read_bytes()
        except (ContestError, OSError) as error:
            refused.append(str(error))  # a sentence that names the file
            continue
        if content not in contents:
            entries[path.name] = entry
        contents.add(content)
    return entries


def _without_same_names(
    entries,  # file name → Entry, which holds the student's name as `name`
    refused,  # list of sentences; for each name that is dropped, one is added
):
    """Drop all entries of students who have the same name, since nobody can tell which one counts.

    Returns the others, file name → Entry."""
    files_of_name = {}  # name in lower case → files; “ALI” and “Ali” would look alike on the page
    for file, entry in entries.items():
        files_of_name.setdefault(entry.name.lower(), []).append(file)
    kept = {}
    for files in files_of_name.values():
        entry = entries[files[0]]
        if len(files) == 1:
            kept[files[0]] = entry
        else:
            both, neither = ("both", "neither") if len(files) == 2 else ("all", "none")
            refused.append(f"{' and '.join(files)} are {both} from “{entry.name}”, so {neither} is ranked: "
                           "change the name in the first line of all but one of them")
    return kept


def _with_same_rules(
    entries,  # file name → Entry, which holds its rules (steps, pictures, …) and its pictures' fingerprint
    standings,  # Standings: rules and pictures are set; `refused` gets a sentence for each other entry
):
    """Keep the entries with the rules of most files and with the pictures that this machine draws.

    Only they can be compared. Returns them, file name → Entry."""
    if not entries:
        return entries
    # what rules the class has agreed on is written nowhere, so the most frequent ones are taken for them
    rule_counts = Counter(entry.rules for entry in entries.values())
    common_rules, _count = rule_counts.most_common(1)[0]
    standings.rules, standings.pictures = common_rules, fingerprint(common_rules)
    kept = {}
    for file, entry in entries.items():
        why_not = _why_not_comparable(entry, standings)
        if why_not:
            standings.refused.append(f"{file}: {why_not}")
        else:
            kept[file] = entry
    return kept


def _why_not_comparable(
    entry,  # Entry of a student, with rules and pictures: a fingerprint of the pictures that were asked about
    standings,  # Standings with the rules of the class, and the fingerprint of what this machine draws
):
    "Say in a sentence why an entry cannot be compared with others of `standings`; None if it can"
    if entry.rules != standings.rules:
        return _rule_difference(entry.rules, standings.rules)
    if entry.pictures != standings.pictures:  # other versions of libraries may draw other pixels
        # cut, since it comes from a student's file and may be of any length
        its_own = entry.pictures[:16]
        return f"its pictures ({its_own}) are not those that are drawn here ({standings.pictures})"
    return None


def _rule_difference(rules, common_rules):
    """Describe how the `Rules` of one file differ from those of most files; what agrees is not named.

    Such as "made under other rules (steps = 200, most have 400)"."""
    differences = []
    for name, value in vars(rules).items():
        common_value = vars(common_rules)[name]
        if value != common_value:
            differences.append(f"{name} = {value}, most have {common_value}")
    return f"made under other rules ({'; '.join(differences)})"


def write_standings(
    folder: str | Path,  # with the students' files
    out: str | Path | None = None,  # the page; None: results.html in the folder
) -> tuple:  # path of the page, Standings
    "Read, mark and rank the files of a class, and write the results page"
    # ContestError if the folder has no file
    standings = gather(folder)
    path = Path(out) if out else Path(folder) / "results.html"
    # the whole page or, after an error, none
    write_whole(path, standings_html(standings))
    return path, standings
