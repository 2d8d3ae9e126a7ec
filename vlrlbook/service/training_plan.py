"""What the server decides for a request that leaves something open, and the notes that tell the client.

A client that learns only from the result that its 50 epochs became 400 steps was not served well. Written
by hand, not exported from a notebook."""
import math

from ..settings import largest_batch
from .run_length import held_out_share, rows_to_train_on
from .refusals import Problem
from .training_requests import form_defaults

__all__ = ["plan", "plan_with_length"]

_parts_of_a_batch = ("batch_size", "gradient_accumulation_steps")


def plan(
    settings: dict,  # chapter 05's names → values that the client chose, from `read_request`
    size: str,  # tiny or gpu, what the server trains
    form: dict,  # from `request_form`
    rows: int,  # of the upload
    pictures: list = None,  # `picture_key` of each row; None: taken as different from one another
) -> tuple:  # parameters for chapter 05, notes for the client
    "Complete a request: a batch that the rows can fill, and how long the run is"
    parameters, notes, _ = plan_with_length(settings, size, form, rows, pictures)
    return parameters, notes


def plan_with_length(
    settings: dict,  # chapter 05's names → values that the client chose, from `read_request`
    size: str,  # tiny or gpu, what the server trains
    form: dict,  # from `request_form`
    rows: int,  # of the upload
    pictures: list = None,  # `picture_key` of each row; None: taken as different from one another
) -> tuple:  # parameters for chapter 05, notes for the client, optimizer steps of the run
    "`plan`, and how many optimizer steps the run will take"
    if rows < 2:
        raise Problem("train.rows", f"{rows} row: one to train on and one to measure with are needed")
    decisions = _Decisions(settings, size, form, rows, pictures)
    if decisions.rows_to_train_on == 0:
        raise Problem("train.rows", "all rows show the same picture: another one is needed to measure with")
    decisions.leave_out_4bit()
    decisions.choose_batch()
    decisions.choose_length()
    if size == "tiny":
        decisions.notes.append("a tiny model on this server's CPU; size gpu trains Qwen2.5-VL-3B")
    return decisions.parameters, decisions.notes, decisions.steps()


class _Decisions:
    "The parameters of one job as they are made, and the notes on what the server decided"
    def __init__(self, settings, size, form, rows, pictures):
        self.asked = settings  # what the client chose, and is not changed
        self.size = size
        self.rows = rows
        self.defaults = form_defaults(form)
        self.parameters = dict(size=size) | settings
        self.notes = []
        if pictures is None:
            pictures = [str(number) for number in range(rows)]
        # As chapter 05 splits them: equal pictures stay on one side, so the seed decides how many rows are left.
        self.rows_to_train_on = rows_to_train_on(pictures, held_out_share, self.value("seed"))

    def value(self, name):
        "What a setting is by now"
        return self.parameters.get(name, self.defaults[name])

    def answers_a_step(self):
        "Answers in one optimizer step"
        return self.value("batch_size") * self.value("gradient_accumulation_steps")

    def rows_a_step(self):
        "Rows in one optimizer step: each is answered num_generations times"
        return self.answers_a_step() // self.value("num_generations")

    def leave_out_4bit(self):
        "4-bit weights need a GPU; a tiny model has next to none to save"
        if self.size == "tiny" and self.parameters.pop("use_4bit", False):
            self.notes.append(
                "use_4bit is off: this server has no GPU and trains a tiny model, which has nothing to save")

    def choose_batch(self):
        "A batch that the rows can fill, and that holds whole groups"
        self._complete_batch()
        if self.rows_a_step() > self.rows_to_train_on:
            self._make_batch_smaller()
        elif self.answers_a_step() % self.value("num_generations") != 0:
            self._make_groups_whole()

    def _complete_batch(self):
        "Where the client chose one part of the batch, choose the other so that a step holds whole groups"
        G = self.value("num_generations")
        chosen = [name for name in _parts_of_a_batch if name in self.asked]
        if len(chosen) != 1 or self.answers_a_step() % G == 0:
            return
        given = self.asked[chosen[0]]
        other = _parts_of_a_batch[1 - _parts_of_a_batch.index(chosen[0])]
        # The least number that makes whole groups: 8 for a batch of 1 and groups of 8.
        least = G // math.gcd(given, G)
        self.parameters[other] = least
        self.notes.append(f"{other} is {least}: with {chosen[0]} = {given} a step then holds whole groups of {G} "
                          f"answers, {given * least // G} rows")

    def _make_batch_smaller(self):
        "All rows in one step; a client that asked for a larger batch is told what would fit"
        G = self.value("num_generations")
        accumulation = self.value("gradient_accumulation_steps")
        if "batch_size" in self.asked:
            if "gradient_accumulation_steps" not in self.asked and self._accumulate_less():
                return
            few = (f"{self.rows_to_train_on} of {self.rows} rows are for training, "
                   f"fewer than the {self.rows_a_step()} of a step")
            fitting = largest_batch(self.rows_to_train_on, G, accumulation)
            advice = f"at most {fitting}" if fitting else "fewer gradient_accumulation_steps"
            raise Problem("training_config.batch_size", f"{few}: {advice} would do")
        batch_size = G * self.rows_to_train_on
        self.parameters |= dict(batch_size=batch_size, gradient_accumulation_steps=1)
        # A client that did set the accumulation must hear that it was taken back.
        taken_back = "" if accumulation == 1 else ", gradient_accumulation_steps 1"
        self.notes.append(
            f"batch_size is {batch_size}{taken_back}: "
            f"a step takes {self.rows_to_train_on} of the rows, {G} answers each")

    def _accumulate_less(self):
        "Fewer passes before a step, where the client chose the batch alone and that is enough; False if not"
        G, batch_size = self.value("num_generations"), self.asked["batch_size"]
        for accumulation in range(self.value("gradient_accumulation_steps") - 1, 0, -1):
            answers = batch_size * accumulation
            if answers % G == 0 and answers // G <= self.rows_to_train_on:
                self.parameters["gradient_accumulation_steps"] = accumulation
                self.notes.append(f"gradient_accumulation_steps is {accumulation}: {self.rows_to_train_on} of "
                                  f"{self.rows} rows are for training")
                return True
        return False

    def _make_groups_whole(self):
        "The batch nearest below the default that holds whole groups of the size that the client asked for"
        # Only here if the client chose nothing but the group: another batch of its own was checked before.
        G = self.value("num_generations")
        whole = G * max(1, self.answers_a_step() // G)
        # The gpu preset has batches of 1 and accumulates: larger batches would not fit into its memory.
        accumulates = self.defaults["gradient_accumulation_steps"] != 1
        name = "gradient_accumulation_steps" if accumulates else "batch_size"
        self.parameters[name] = whole
        self.notes.append(f"{name} is {whole}: whole groups of {G} answers")

    def choose_length(self):
        "How long the run is, and who said so; max_steps wins over num_epochs, as in chapter 05"
        default_steps = self.defaults["max_steps"]
        if "max_steps" in self.parameters:
            self.notes.append(f"max_steps decides: {self.parameters['max_steps']} steps")
        elif "num_epochs" in self.asked:
            # -1 is chapter 05's word for "by num_epochs"; without it the preset's max_steps would win.
            self.parameters["max_steps"] = -1
            otherwise = f"; without num_epochs this server does {default_steps}" if default_steps else ""
            self.notes.append(f"num_epochs = {self.asked['num_epochs']}: {self._steps_of_epochs()} steps{otherwise}")
        elif default_steps:
            self.parameters["max_steps"] = default_steps
            self.notes.append(
                f"{default_steps} steps, as the tiny preset has it; num_epochs or max_steps change that")
        else:
            epochs = self.defaults["num_epochs"]
            self.notes.append(
                f"num_epochs = {epochs}, as the gpu preset has it: {self._steps_of_epochs()} steps")

    def _steps_of_epochs(self):
        "Optimizer steps in the epochs of the run"
        # TRL's sampler (1.16.0) leaves out the rows at an epoch's end that fill no step.
        return self.rows_to_train_on // self.rows_a_step() * self.value("num_epochs")

    def steps(self):
        "Optimizer steps of the whole run; max_steps wins, as in chapter 05"
        max_steps = self.value("max_steps")
        return max_steps if max_steps and max_steps > 0 else self._steps_of_epochs()
