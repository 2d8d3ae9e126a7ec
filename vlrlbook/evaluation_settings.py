"""Settings of an evaluation: their names, what `size` and the task fill in, and which values are refused.

Chapter 06 shows them at work; its parameters cell holds the fields of the class once more, for papermill.
Written by hand, not exported from a notebook."""
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from .settings import Settings, by_task, is_first_process, nearest, settings_of_run, size_by_model

__all__ = ["presets", "EvaluationSettings"]

tasks = tuple(by_task)

# What `size` fills in: name → a value, or a tuple with a value for each of `tasks`, in their order.
presets = {
    "tiny": dict(
        eval_samples=500, eval_batch_size=125, temperature=1.0,
        max_completion_length=(8, 24, 18, 96), max_image_size=(112, 112, 56, 56)),
    "gpu": dict(
        eval_samples=2000, eval_batch_size=16, temperature=0.2,
        max_completion_length=(64, 512, 128, 1024), max_image_size=512)}


default_seed = 43  # of a GRPO run, and so of the split of its file


@dataclass
class EvaluationSettings(Settings):
    "An evaluation; chapter 06's parameters cell holds the same names, types, defaults and comments"
    size: str = None  # tiny: a million parameters on a CPU; gpu: the counting system's defaults; None: by
    #   model
    model: str = None  # Hub id, directory, or tiny-qwen2_5_vl and the like for an untrained twin; None: what
    #   the adapter was trained on
    adapter: str = None  # Directory of a LoRA adapter, or of a whole trained model
    data: str = None  # Counting ZIP, or rows (.jsonl, .json, .csv, .tsv, .parquet); None draws discs
    image_dir: str = None  # Where the pictures of VQA rows begin; None: beside the file
    keys: str = None  # Which column of VQA rows holds what: pairs with an equals sign between; None: by its
    #   name
    skip_bad_rows: bool = False  # Leave bad rows out and list them; False stops at the first
    split: str = "held-out"  # held-out: the part of data that chapter 05 keeps from training; all: every row
    split_seed: int = None  # The seed of that training run; None: the one in the model's folder, else 43
    predictions: str = None  # Score this file (of chapter 05, of this one, or question/answer/prediction)
    #   without a model
    task: str = None  # counting, vqa, pointing or zoom; None: by the kind of data, for predictions counting
    #   where every truth holds a count
    reward: str = None  # Any reward of chapter 02; None: the task's own
    output_dir: str = "runs/06_evaluation"  # Where results.json, metrics.csv and predictions.jsonl go
    eval_samples: int = None  # Most pictures (tiny 500, gpu 2000)
    eval_answers: int = 4  # Sampled answers to each of them
    eval_batch_size: int = None  # Pictures in one batch (tiny 125, gpu 16)
    temperature: float = None  # Of sampling (tiny 1.0, gpu 0.2)
    max_completion_length: int = None  # Most tokens of an answer (tiny, gpu: counting 8, 64; vqa 24, 512;
    #   pointing 18, 128; zoom 96, 1024)
    max_image_size: int = None  # Pictures have at most this many pixels squared (tiny 112, pointing, zoom 56;
    #   gpu 512)
    use_4bit: bool = False  # 4-bit weights under the adapter; needs CUDA and bitsandbytes
    processes: int = 1  # That ask at the same time, each with the model of its own and, where there are GPUs,
    #   one for itself
    use_vllm: bool = False  # vLLM answers (extra gpu): faster on a GPU; an adapter is merged into a copy of
    #   its base first
    vllm_gpu_memory_utilization: float = 0.9  # Share of a GPU that vLLM may take, for both models together
    vllm_max_model_length: int = None  # Tokens of prompt and answer that vLLM makes room for; None: as the
    #   model allows
    controls: bool = True  # Also ask without the picture, and with another one
    seed: int = 0  # Of sampling and of the shuffled pictures
    resume: bool = True  # Go on where a killed run of the same settings stopped; false begins anew
    presets: ClassVar[dict] = presets

    def wanted_model(self):
        "The model that is asked, or else the adapter, whose files name the model under it; None without both"
        return self.model or self.adapter

    def filled_in(self):
        """Return the default values that depend on `size`, on the task and on the run that trained the model.

        Name of a setting → value. With size tiny and task vqa: {"eval_samples": 500, …,
        "max_completion_length": 24, …}."""
        task_index = tasks.index(self.asked_task)  # the setting `task`, or the task that the data suggest
        values = {}
        for name, value in presets[self.size].items():
            # A tuple holds a value for each of `tasks` (counting, vqa, …); any other value is of all of them.
            values[name] = value[task_index] if isinstance(value, tuple) else value
        # trained_with: settings of the GRPO run that trained the model. Its seed holds out the same rows of
        # the file as then.
        seed = self.trained_with.get("seed")
        split_seed = default_seed if seed is None else seed
        # _as_trained: length of answers and size of pictures in that run, in place of those for this `size`.
        return values | self._as_trained() | dict(split_seed=split_seed)

    @property
    def trained_with(self) -> dict:
        "The settings of the GRPO run whose folder `adapter` or `model` is: name → value; empty if it is none"
        return settings_of_run(self.adapter or self.model)

    @property
    def was_trained_on_data(self) -> bool:
        "Tell whether the model's own run has read the file `data`, as far as its settings tell"
        trained_on = self.trained_with.get("data")
        if not (trained_on and self.data):
            return False
        return Path(trained_on).resolve() == Path(self.data).resolve()

    def _as_trained(self):
        """Return and print max_completion_length and max_image_size of the run that trained the model.

        Name → value; a setting that the user has given is left out. Empty for a tiny model, for one that no
        run of ours has trained, and for a run of another task than that of the questions."""
        trained = self.adapter or self.model
        # wanted_model: `model`, or the adapter without one; size_by_model: tiny or gpu, by the model's width
        is_large = self.size == "gpu" and size_by_model(self.wanted_model()) == "gpu"
        if not (trained and is_large):
            return {}
        run = self.trained_with  # settings of that run; {} if it is none of ours
        if run.get("task") != self.asked_task:
            return {}
        values = {}
        for name in ("max_completion_length", "max_image_size"):
            if getattr(self, name) is None and run.get(name):
                values[name] = run[name]
        if values:
            _say_as_trained(values, trained)
        return values

    @property
    def asks_vqa(self) -> bool:
        "Tell whether the task is VQA: because `task` says so, or because no task is set and `data` is no ZIP"
        # A ZIP is a counting set; rows in any other file are questions with answers.
        has_rows = bool(self.data) and Path(self.data).suffix.lower() != ".zip"
        return self.task == "vqa" or (self.task is None and has_rows)

    @property
    def asked_task(self) -> str:
        "The task of the questions: the setting `task`, or vqa or counting by the kind of data"
        # `filled_in` needs a task before `rules` has refused a `task` that does not exist.
        if self.task in tasks:
            return self.task
        return "vqa" if self.asks_vqa else "counting"

    def rules(self):
        "Yield (is wrong, message) for each rule; `Settings.check` raises one error with all that are wrong"
        yield from self._range_rules()
        yield from self._vllm_rules()
        yield from self._file_rules()

    def _range_rules(self):
        "Yield (is wrong, message): each number is in its range, `split` and `task` have values that exist"
        # None of these settings is None here: `check` has filled in the values of `size`.
        positive = (
            "processes", "eval_samples", "eval_answers", "eval_batch_size", "temperature",
            "max_completion_length", "max_image_size")
        for name in positive:
            value = getattr(self, name)
            yield value <= 0, f"{name} = {value}: expected more than 0"
        for name in ("seed", "split_seed"):
            value = getattr(self, name)
            yield value < 0, f"{name} = {value}: expected 0 or more"
        yield from self._split_rules()
        # `nearest` ends a message with a proposal, such as ": did you mean 'all'?".
        splits = ["held-out", "all"]
        yield self.split not in splits, f"split = {self.split!r}{nearest(str(self.split), splits)}"
        yield self.task not in (None, *tasks), f"task = {self.task!r}{nearest(str(self.task), list(tasks))}"

    def _split_rules(self):
        "Yield (is wrong, message): another seed than that of the training would hold out rows it trained on"
        seed = self.trained_with.get("seed", self.split_seed)
        is_leaky = self.split == "held-out" and self.was_trained_on_data and seed != self.split_seed
        yield is_leaky, (
            f"split_seed = {self.split_seed}: the model was trained on this file with seed = {seed}, and held "
            "out other rows; leave split_seed out")

    def _vllm_rules(self):
        "Yield (is wrong, message): the two settings of vLLM alone, and then those that exclude use_vllm"
        yield from self._vllm_size_rules()
        yield from self._with_vllm_rules()

    def _vllm_size_rules(self):
        "Yield (is wrong, message): vLLM's share of the memory, and the tokens that it makes room for"
        share = self.vllm_gpu_memory_utilization
        yield not 0 < share <= 1, f"vllm_gpu_memory_utilization = {share}: expected more than 0, up to 1"
        most_tokens = self.vllm_max_model_length  # of prompt and answer together; None: no limit of ours
        longest_answer = self.max_completion_length  # in tokens
        no_room_for_prompt = most_tokens is not None and most_tokens <= longest_answer
        yield no_room_for_prompt, (
            f"vllm_max_model_length = {most_tokens}: no room for a prompt beside "
            f"max_completion_length = {longest_answer}")

    def _with_vllm_rules(self):
        "Yield (is wrong, message): settings that exclude use_vllm, and use_vllm where vLLM is not installed"
        # In task zoom a tool returns parts of the picture as new pictures.
        calls_a_tool = self.use_vllm and self.asked_task == "zoom"
        yield calls_a_tool, "use_vllm with task = zoom: pictures that a tool gives are not tested there"
        # vLLM takes the memory of the whole GPU, and leaves none to another process.
        has_several_processes = self.use_vllm and self.processes > 1
        yield has_several_processes, f"use_vllm asks in one process, and processes = {self.processes}"
        yield self.use_vllm and self.use_4bit, "use_vllm loads whole weights: leave out use_4bit"
        # `find_spec` looks for vLLM without importing it, which takes many seconds.
        is_missing = self.use_vllm and not importlib.util.find_spec("vllm")
        yield is_missing, "use_vllm: vLLM is not installed (pip install 'vlrlbook[gpu]')"

    def _file_rules(self):
        "Yield (is wrong, message): files that are missing, and settings that exclude `predictions`"
        for name in ("data", "predictions"):
            path = getattr(self, name)
            is_missing = bool(path) and not Path(path).is_file()
            yield is_missing, f"{name} = {path!r}: no such file"
        # `adapter` is a folder with a LoRA adapter (the first file) or a whole model (the second one).
        config_files = ("adapter_config.json", "config.json")
        no_model = bool(self.adapter) and not any(Path(self.adapter, name).exists() for name in config_files)
        yield no_model, f"adapter = {self.adapter!r}: no adapter_config.json and no config.json there"
        has_other_input = bool(self.predictions) and bool(self.model or self.adapter or self.data)
        yield has_other_input, "predictions are scored as they are: leave out model, adapter and data"
        # A training writes the first of these files when it begins and the second one with its model. Its
        # results.json, predictions.jsonl and run_log.csv would be replaced by those of the evaluation.
        files_of_training = ("begun_with.json", "training_args.json")
        has_training = any(Path(self.output_dir, name).exists() for name in files_of_training)
        yield has_training, (
            f"output_dir = {self.output_dir!r}: a training has its records there, which this would replace; "
            f"take {str(Path(self.output_dir, 'evaluation'))!r}")


def _say_as_trained(values, trained):
    "Print which `values`, a dict, are of the run that made the folder `trained`; in the first process only"
    if is_first_process():
        settings = ", ".join(f"{name} = {value}" for name, value in values.items())
        print(f"{settings}, as {trained} was trained; write them to choose others", file=sys.stderr)
