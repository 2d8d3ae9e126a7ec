"""A contest of a class: each student writes a reward, trains the same model on the same pictures with it, and
hands in one small file (`contest_files`).

Only the reward differs between two students. The model is measured on chapter 06's frozen pictures, which are
drawn from a seed and never trained on by GRPO, before and after, with both controls. `standings` marks and
ranks the files. Written by hand."""
import inspect
import tempfile
import time
from contextlib import contextmanager
from numbers import Real
from pathlib import Path

from .contest_files import ContestError, Entry, Rules, entry_name, entry_text, fingerprint, frozen_pictures
from .core import RunLog, run_facts
from .data import picture_key
from .folders import write_whole
from .rewards import check_reward, known_rewards
from .settings import GRPOSettings, read_settings

__all__ = ["as_reward", "checked_reward", "reward_of_file", "enter"]

longest_source = 6000  # characters of a reward that the file keeps
_example = "A photo of 3 discs"  # a true answer about a picture, with which a reward is tried

# The reward

def as_reward(
    function,  # (completion, truth) → a number, or a dict of numbers with `overall`
):  # (completion, truth) → dict with `overall`
    """Wrap a student's function so that it returns a dict, as the book's own rewards do.

    The wrapper raises ContestError, with the completion in the message, if the function raises or returns
    neither a number nor a dict with a number `overall`."""
    def reward(completion, answer):
        "Call the student's `function`; return its dict of numbers, or a plain number as dict(overall=number)"
        value = _value_of(function, completion, answer)
        if isinstance(value, Real):
            value = dict(overall=float(value))
        if not isinstance(value, dict) or not isinstance(value.get("overall"), Real):
            shown, where = _shown(value), f"for the answer {completion[:60]!r}"
            expected = "it must return a number, or a dict of numbers with 'overall'"
            raise ContestError(f"{_name_of(function)} returns {shown} {where}; {expected}")
        return value

    return reward


def _value_of(
    function,  # a student's: (completion, truth) → a number or a dict
    completion,  # what the model wrote
    truth,  # the true answer
):
    "What a student's function returns; ContestError, with the completion in it, whatever it raises"
    try:
        return function(completion, truth)
    except (Exception, SystemExit) as error:  # SystemExit, of sys.exit() in it, is no Exception
        problem = f"{type(error).__name__}: {error}".strip()
        where = f"for the answer {completion[:60]!r}"
        raise ContestError(f"{_name_of(function)} stops with {problem[:120]} {where}") from error


def _name_of(function):
    "The name of a student's function for messages; an object that can be called may have none"
    return getattr(function, "__name__", "your reward")


def _shown(value):
    "A value, its first 40 characters, and its type for messages: `'None' (NoneType)`"
    return f"{str(value)[:40]!r} ({type(value).__name__})"


def checked_reward(
    function,  # (completion, truth) → a number, or a dict of numbers with `overall`
):  # (completion, truth) → dict with `overall`
    """Wrap a student's function as a reward, after trying it on right, empty and hostile answers.

    If it cannot be used for training, ContestError tells the student the first problem in one sentence."""
    if not callable(function):
        raise ContestError(f"the reward is {_shown(function)}; it must be a function of (completion, truth)")
    reward = as_reward(function)
    # first the right answer, completion and truth alike: an error there is the easiest one to understand
    reward(_example, _example)
    # then strange completions: `check_reward` returns a list of sentences, empty if the reward can train
    problems = check_reward(reward, _example)
    if problems:
        raise ContestError(f"{_name_of(function)} cannot train yet: {problems[0]}")
    return reward


def reward_of_file(
    spec: str,  # file and function, such as "mine.py:my_reward"
):  # the function
    """Load a student's reward function from a Python file.

    A teacher uses this to train on their own machine for a student whose laptop cannot."""
    # split at the last colon, since a Windows path such as C:\mine.py has one, too
    path, _, function_name = spec.rpartition(":")
    if not path.endswith(".py") or not Path(path).is_file():
        raise ContestError(f"{spec!r} names no reward: expected an existing file and a function, "
                           "as in mine.py:my_reward")
    function = _names_of_file(path).get(function_name)
    if not callable(function):
        raise ContestError(f"{Path(path).name} has no function {function_name!r}")
    return function


def _names_of_file(path):
    "Run a student's Python file and return all that it defines, as a dict: name → value"
    # the file's own name and not "__main__", so that `if __name__ == "__main__":` runs nothing
    module_names = {"__name__": Path(path).stem}
    try:
        source = Path(path).read_text(encoding="utf-8")
        # with the file's path, so that a traceback and `inspect` find the lines of the function
        exec(compile(source, path, "exec"), module_names)
    # A student's file may fail in any way; SystemExit, of sys.exit() in it, is no Exception.
    except (Exception, SystemExit) as error:
        raise ContestError(f"{Path(path).name} cannot be read: {type(error).__name__}: {error}") from error
    return module_names


def _source_of(function):
    "Return the source of a function for the contest's file, cut after 6000 characters (`longest_source`)"
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        # a function that was typed into a plain Python prompt has no file
        return "(the source could not be found)"
    return source if len(source) <= longest_source else source[:longest_source] + "\n… (cut)"


@contextmanager
def _registered(
    name,  # which no other reward has
    reward,  # (completion, truth) → dict with `overall`
):
    """Register a reward under a name for the length of a `with` block, and yield the name.

    The training's settings hold a reward by its name, and `known_rewards` maps names to functions."""
    known_rewards[name] = reward
    try:
        yield name
    finally:
        del known_rewards[name]


# Taking part

def enter(
    name: str,  # of the student or the group, as the results page will show it
    reward,  # function: (completion, truth) → a number, or a dict of numbers with `overall`
    folder: str | Path = "contest",  # where the file to hand in is written
    rules: Rules = Rules(),  # training steps, pictures and seed, the same for the whole class
    again: bool = False,  # write over an earlier file of the same name
) -> Entry:  # what the file holds
    """Take part in the class's contest: train a model with one's own reward, and write the file to hand in.

    It holds the reward's source, the log of the training, and the model's answers about the frozen pictures
    (a fixed set that the training does not use) before and after."""
    path = Path(folder) / entry_name(name)  # such as contest/ada-lovelace.json
    if path.exists() and not again:
        raise ContestError(f"{path} is there already: choose another name, or again=True to write over it")
    checked = checked_reward(reward)  # ContestError if it cannot be used for training
    # the trained adapter is deleted with the folder: its answers show what it learned, and are small
    with tempfile.TemporaryDirectory() as run_folder:
        entry = _train_and_measure(name.strip(), _source_of(reward), checked, rules, run_folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, entry_text(entry))
    return entry


def _train_and_measure(
    name,  # of the student
    source,  # the reward's text, which the entry keeps for people
    reward,  # the function that trains: (completion, truth) → dict with `overall`
    rules,  # Rules of the class: steps, pictures, answers, seed, warm_steps
    folder,  # into which the trained adapter is written
):
    """Train with a student's reward, ask the model before and after, and return all that as an Entry.

    An Entry is what a student hands in: reward, rules, answers and the log of the training."""
    # imported here, since it brings torch, which takes seconds
    from .evaluation import compare
    started = time.time()
    # settings hold a reward by its name, so it gets one for the length of the training
    with _registered("of_the_contest", reward) as reward_name:
        base, log = _train(reward_name, rules, folder)  # base: directory of the model before the training
    # a row for each frozen picture; the numbers are those of GRPO's preset (chapter 05) for this small model.
    # 8 tokens are room for "A photo of 3 discs", 112 pixels squared are the size of the training's pictures
    rows = compare(base, adapter=folder, dataset=frozen_pictures(rules), answers=rules.answers,
                   max_new_tokens=8, batch_size=125, max_image_size=112)
    # `compare` returns its rows sorted by length; "row" is the picture's place in the dataset
    rows.sort(key=lambda row: row["row"])
    # device, versions and commit of this machine
    facts = run_facts() | dict(seconds=round(time.time() - started))
    return Entry(name, reward=source, rules=rules, pictures=fingerprint(rules), rows=rows, log=log.rows,
                 facts=facts)


def _refuse_frozen(
    train,  # data set of the training pictures
    rules,  # Rules of the class; `pictures` says how many frozen pictures there are
):
    """Raise ContestError if the training pictures contain some of the frozen pictures.

    The frozen pictures measure all students' models, so no training may use them. Both sets are drawn from
    seeds, and a class may choose a seed that draws some pictures again."""
    from .evaluation import sample_at  # here, since it brings torch
    # pictures are compared by hashes of their pixels
    frozen_keys = {picture_key(sample.images[0]) for sample in frozen_pictures(rules)}
    # sample_at: the row of a data set as a `Sample`, which holds the picture
    training_keys = {picture_key(sample_at(train, row).images[0]) for row in range(len(train))}
    shared_count = len(frozen_keys & training_keys)
    if shared_count:
        raise ContestError(f"seed {rules.seed} draws {shared_count} of the frozen pictures for the training: "
                           "agree on another seed")


def _train(
    reward_name,  # under which the reward is registered in `known_rewards`
    rules,  # Rules of the class: steps, seed, warm_steps
    folder,  # for the trained adapter
):
    """Train with chapter 05's GRPO trainer, and write the trained adapter into `folder`.

    Returns the directory of the model as it was before this training, and the training's log."""
    # imported here, since most of them bring torch, which takes seconds
    from .core import set_seed
    from .grpo import load_policy, make_trainer
    from .run_data import load_data
    from .run_files import save_run
    from .warm_twins import warm_start
    settings = _training_settings(reward_name, rules, folder)
    set_seed(settings.seed)

    train, _held_out, _report = load_data(settings)  # newly drawn pictures, since the settings name no file
    _refuse_frozen(train, rules)  # ContestError if a frozen picture is among them
    model, processor = load_policy(settings)
    log = RunLog()
    trainer = make_trainer(settings, model, processor, train, log=log)
    trainer.train()
    save_run(trainer, processor, settings)  # writes the adapter into `output_dir`

    # the path of the supervised model with which `load_policy` began; it is in the cache, not trained again
    family = settings.model.removeprefix("tiny-")  # such as qwen2_5_vl
    return warm_start(family, settings.warm_steps), log


def _training_settings(
    reward_name,  # under which the reward is registered in `known_rewards`
    rules,  # Rules of the class: steps, seed, warm_steps
    folder,  # for the trained adapter
):
    "The contest's settings for a training: those of the rules, the rest from GRPO's small preset"
    # every 5 steps; more often in a run of under 20, for four points at least in the curve of its reward
    logging_steps = max(1, min(5, rules.steps // 4))
    # no checkpoints, and only one held-out picture, since the frozen pictures measure the model
    return read_settings(GRPOSettings, dict(
        reward=reward_name, max_steps=rules.steps, warm_steps=rules.warm_steps, seed=rules.seed,
        output_dir=folder, save_steps=0, eval_samples=1, logging_steps=logging_steps))
