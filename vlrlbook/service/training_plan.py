"""What the server decides for a request that leaves something open, and the notes that tell the client.

A client that learns only from the result that its 50 epochs became 400 steps was not served well. Written
by hand, not exported from a notebook."""
import math
import sys

from ..settings import drawn_rows_of_an_epoch, largest_batch
from .run_length import held_out_share, rows_to_train_on
from .refusals import Problem
from .training_requests import form_defaults

__all__ = ["plan", "plan_with_length"]

# Drawn pictures are all in memory at once. So many take about two gigabytes: a side has 112 pixels, or in
# task zoom 448.
_most_drawn = {"zoom": 4_000}
_most_drawn_small = 50_000  # of any other task


def plan(
    settings: dict,  # what the client chose: name in `GRPOSettings` → value, from `read_request`
    size: str,  # tiny or gpu: the models that the server trains
    form: dict,  # group → list of fields, from `request_form`
    rows: int | None,  # how many rows the upload has; None: there is none, and pictures are drawn
    pictures: list = None,  # `picture_key` of each row; None: taken as different from one another
) -> tuple:  # parameters of the GRPO run (chapter 05), notes for the client
    """Decide what a request leaves open: a batch that the rows can fill, and the length of the run.

    `pictures` counts, since rows with the same picture are either trained on or measured with, never split."""
    parameters, notes, _ = plan_with_length(settings, size, form, rows, pictures)  # _: optimizer steps
    return parameters, notes


def plan_with_length(
    settings: dict,  # what the client chose: name in `GRPOSettings` → value, from `read_request`
    size: str,  # tiny or gpu: the models that the server trains
    form: dict,  # group → list of fields, from `request_form`
    rows: int | None,  # how many rows the upload has; None: there is none, and pictures are drawn
    pictures: list = None,  # `picture_key` of each row; None: taken as different from one another
) -> tuple:  # parameters of the GRPO run (chapter 05), notes for the client, optimizer steps of the run
    """Decide what a request leaves open, and count the optimizer steps that the run will take.

    Raises a Problem where there are too few rows or pictures."""
    if rows is not None and rows < 2:
        raise Problem("train.rows", f"{rows} row: one to train on and one to measure with are needed")
    # Collects the job's parameters and the notes; each of its methods makes one decision.
    decisions = _Decisions(settings, size, form, rows, pictures)
    if decisions.rows_to_train_on == 0:
        raise Problem("train.rows", "all rows show the same picture: another one is needed to measure with")
    decisions.leave_out_4bit()  # where the server has no GPU
    decisions.choose_batch()  # no larger than the rows can fill, with whole groups of answers
    decisions.choose_length()
    if rows is None:
        decisions.count_drawn()  # raises a Problem where they would be too many
    if size == "tiny":
        decisions.notes.append("a tiny model on this server's CPU; size gpu trains Qwen2.5-VL-3B")
    return decisions.parameters, decisions.notes, decisions.steps()


class _Decisions:
    "The parameters of one job while they are decided, and the notes on what the server decided"
    def __init__(self,
        settings: dict,  # what the client chose: setting → value
        size: str,  # tiny or gpu: the models that the server trains
        form: dict,  # group → list of fields, from `request_form`
        rows: int | None,  # how many rows the upload has; None: there is none, and pictures are drawn
        pictures: list | None,  # for each row a text that is equal where the pictures are; None: all differ
    ):
        "Begin with what the client chose; the methods decide the rest"
        self.asked = settings  # never changed here
        self.size = size
        self.defaults = form_defaults(form)  # setting → value where the client chose none
        self.parameters = dict(size=size) | settings  # the job's: completed by the methods below
        self.notes = []  # sentences for the client

        if rows is None:
            # A run of max_steps draws as many rows as its steps need, so there is no limit.
            self.rows = drawn_rows_of_an_epoch if self.goes_by_epochs() else sys.maxsize
            # All are for training: the rows to measure with are drawn as well, and not held out of these.
            self.rows_to_train_on = self.rows
        else:
            self.rows = rows
            self.rows_to_train_on = self._rows_not_held_out(pictures)

    def _rows_not_held_out(self,
        pictures,  # for each row of the upload a text that is equal where the pictures are; None: all differ
    ):
        "How many of the upload's rows are trained on; with the others the run is measured"
        if pictures is None:
            pictures = [str(number) for number in range(self.rows)]
        # The seed chooses the pictures that are held out; each may have another number of rows.
        return rows_to_train_on(pictures, held_out_share, self.value("seed"))

    def value(self, name):
        "Return a setting's value as decided so far, else its default"
        return self.parameters.get(name, self.defaults[name])

    def goes_by_epochs(self):
        "Whether the length of the run is given by num_epochs, by the client or else by the preset"
        if "max_steps" in self.asked:
            return False  # as in GRPO training (chapter 05), max_steps wins
        return "num_epochs" in self.asked or not self.defaults["max_steps"]

    def answers_a_step(self):
        "Answers in one optimizer step"
        return self.value("batch_size") * self.value("gradient_accumulation_steps")

    def rows_a_step(self):
        "Rows in one optimizer step: each row gets a group of num_generations answers"
        return self.answers_a_step() // self.value("num_generations")

    def leave_out_4bit(self):
        "Drop use_4bit on a server without a GPU, which 4-bit weights need, and add a note"
        if self.size == "tiny" and self.parameters.pop("use_4bit", False):
            self.notes.append(
                "use_4bit is off: this server has no GPU and trains a tiny model, which has nothing to save")

    def choose_batch(self):
        """Decide batch_size and gradient_accumulation_steps.

        A step's answers must make whole groups of num_generations, and need no more rows than there are."""
        note = self._complete_batch()  # where the client chose one of the two; None elsewhere
        if self.rows_a_step() > self.rows_to_train_on:
            self._make_batch_smaller()  # also makes groups whole, or raises a Problem; notes what it chose instead
        elif note:
            self.notes.append(note)
        elif self.answers_a_step() % self.value("num_generations") != 0:
            self._make_groups_whole()

    def _complete_batch(self):
        """If the client chose only batch_size or only gradient_accumulation_steps, choose the other one.

        Returns a note for the client, or None where nothing was to be chosen. Their product, the number of answers in a step, must be a multiple of num_generations: with groups of
        8 answers a batch_size of 6 gets 4 accumulation steps, which makes 3 groups."""
        group_size = self.value("num_generations")  # answers to each row
        both = ("batch_size", "gradient_accumulation_steps")
        chosen_parts = [name for name in both if name in self.asked]
        if len(chosen_parts) != 1 or self.answers_a_step() % group_size == 0:
            return None  # nothing to complete, or the default of the other one fits
        [chosen] = chosen_parts
        other = "gradient_accumulation_steps" if chosen == "batch_size" else "batch_size"
        chosen_value = self.asked[chosen]
        # The smallest factor with which the product is a multiple of group_size.
        factor = group_size // math.gcd(chosen_value, group_size)
        self.parameters[other] = factor
        rows = chosen_value * factor // group_size
        return (f"{other} is {factor}: with {chosen} = {chosen_value} a step then holds whole groups "
                f"of {group_size} answers, {rows} rows")

    def _make_batch_smaller(self):
        """Make a step so small that there are enough rows for it, and make its groups of answers whole.

        A batch_size that the client chose is kept: there are fewer accumulation steps, or a Problem says
        which batch_size would fit. If none was chosen, a step takes all rows, a group of answers to each."""
        if "batch_size" in self.asked:  # asked: what the client chose
            may_reduce = "gradient_accumulation_steps" not in self.asked
            if may_reduce and self._reduce_accumulation():  # True: a smaller number fits, and is set
                return
            raise self._too_few_rows()
        group_size = self.value("num_generations")
        accumulation = self.value("gradient_accumulation_steps")
        batch_size = group_size * self.rows_to_train_on  # a group of answers for each row
        self.parameters |= dict(batch_size=batch_size, gradient_accumulation_steps=1)
        # The client may have chosen the accumulation, and must be told that it was changed.
        accumulation_note = "" if accumulation == 1 else ", gradient_accumulation_steps 1"
        self.notes.append(
            f"batch_size is {batch_size}{accumulation_note}: "
            f"a step takes {self.rows_to_train_on} of the rows, {group_size} answers each")

    def _too_few_rows(self):
        "The Problem that tells the client which batch_size the rows would fill"
        # The largest batch_size whose step needs no more rows than these; None: even the smallest needs more.
        fitting = largest_batch(self.rows_to_train_on, self.value("num_generations"),
                                self.value("gradient_accumulation_steps"))
        advice = f"at most {fitting}" if fitting else "fewer gradient_accumulation_steps"
        too_few = (f"{self.rows_to_train_on} of {self.rows} rows are for training, "
                   f"fewer than the {self.rows_a_step()} of a step")
        return Problem("training_config.batch_size", f"{too_few}: {advice} would do")

    def _reduce_accumulation(self):
        """Lower gradient_accumulation_steps until there are enough rows for a step, and note the new value.

        The client's batch_size is kept. Returns False if no value fits."""
        group_size, batch_size = self.value("num_generations"), self.asked["batch_size"]
        current = self.value("gradient_accumulation_steps")
        # From the largest value down, so that as little as possible is changed.
        for accumulation in range(current - 1, 0, -1):
            answers_a_step = batch_size * accumulation
            has_whole_groups = answers_a_step % group_size == 0
            rows_a_step = answers_a_step // group_size
            if has_whole_groups and rows_a_step <= self.rows_to_train_on:
                self.parameters["gradient_accumulation_steps"] = accumulation
                self.notes.append(
                    f"gradient_accumulation_steps is {accumulation}: {self.rows_to_train_on} of "
                    f"{self.rows} rows are for training")
                return True
        return False

    def _make_groups_whole(self):
        """Round the answers of a step down to whole groups of num_generations, but not below one group.

        So 8 answers become 6 for groups of 3 (two groups), and 10 for groups of 10 (one group). Called only
        if the client chose neither batch_size nor gradient_accumulation_steps."""
        group_size = self.value("num_generations")
        group_count = max(1, self.answers_a_step() // group_size)
        answers = group_count * group_size
        # Each preset leaves one of the two at 1: gpu batch_size, tiny gradient_accumulation_steps. So the
        # other one alone is the number of answers in a step.
        accumulates = self.defaults["gradient_accumulation_steps"] != 1
        name = "gradient_accumulation_steps" if accumulates else "batch_size"
        self.parameters[name] = answers
        self.notes.append(f"{name} is {answers}: whole groups of {group_size} answers")

    def choose_length(self):
        """Decide the length of the run, and note what decides it: max_steps, num_epochs or the preset.

        As in GRPO training (chapter 05), max_steps wins over num_epochs."""
        default_steps = self.defaults["max_steps"]  # None where the preset gives num_epochs instead
        if "max_steps" in self.asked:
            self.notes.append(f"max_steps decides: {self.asked['max_steps']} steps")
        elif "num_epochs" in self.asked:
            self._choose_epochs(default_steps)
        elif default_steps:
            self.parameters["max_steps"] = default_steps
            self.notes.append(
                f"{default_steps} steps, as the tiny preset has it; num_epochs or max_steps change that")
        else:
            epochs = self.defaults["num_epochs"]
            self.notes.append(
                f"num_epochs = {epochs}, as the gpu preset has it: {self._steps_of_epochs()} steps")

    def _choose_epochs(self,
        default_steps,  # length of a run where the client sets none: the preset's max_steps, or None
    ):
        "Let the client's num_epochs decide the length of the run, and add a note that says so"
        # For `GRPOSettings` -1 means that num_epochs decides. If it were None, the preset's max_steps would.
        self.parameters["max_steps"] = -1
        otherwise = f"; without num_epochs this server does {default_steps}" if default_steps else ""
        steps = self._steps_of_epochs()
        # asked: what the client chose; notes: sentences for the client
        self.notes.append(f"num_epochs = {self.asked['num_epochs']}: {steps} steps{otherwise}")

    def count_drawn(self):
        """Note how many pictures are drawn for a run without a data set, and by which seed.

        Raises a Problem if they are too many for the memory, since all are drawn before the first step."""
        if self.goes_by_epochs():
            drawn = drawn_rows_of_an_epoch  # a constant: drawn pictures have no natural number
        else:
            drawn = self.steps() * self.rows_a_step()
        self._check_drawn(drawn)
        held_out, seed = self.value("eval_samples"), self.value("seed")
        # in front of the notes on batch and length, since it says what is trained on
        self.notes.insert(
            0, f"no data_file_id: {drawn} pictures are drawn to train on, by seed {seed}, and {held_out} "
               "others to measure with")

    def _check_drawn(self, drawn):
        "Raise a Problem if so many drawn pictures are too many for the memory"
        task = self.value("task")
        most = _most_drawn.get(task, _most_drawn_small)  # 4,000 large pictures in task zoom, else 50,000
        # Only max_steps can lead to so many: where num_epochs decides, 2,000 are drawn.
        if drawn > most:
            steps = most // self.rows_a_step()
            if steps == 0:
                advice, field = f"a step of at most {most} rows", "batch_size"
            else:
                advice, field = f"{steps} steps of {self.rows_a_step()} rows", "max_steps"
            raise Problem(
                f"training_config.{field}",
                f"{drawn} pictures would be drawn for {self.steps()} steps, and at most {most} can be for "
                f"task {task}: {advice}, or an upload to train on")

    def _steps_of_epochs(self):
        "Return the optimizer steps of `num_epochs` epochs"
        # Rounded down: TRL's sampler (1.16.0) leaves out the last rows of an epoch, which fill no step.
        steps_an_epoch = self.rows_to_train_on // self.rows_a_step()  # a row is asked once in an epoch
        passes = self.parameters.get("num_iterations", 1)  # steps on the same answers
        return steps_an_epoch * passes * self.value("num_epochs")

    def steps(self):
        "Return the optimizer steps of the run: max_steps if it is positive, else those of num_epochs"
        max_steps = self.value("max_steps")
        return max_steps if max_steps and max_steps > 0 else self._steps_of_epochs()
