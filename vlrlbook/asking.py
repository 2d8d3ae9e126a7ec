"""Ask a model about batches of pictures before and after its training: here, in several processes, in vLLM.

Chapter 06 decides what is asked, in which order and with which seed; this module runs the models. Several
processes give the same answers as one, since each batch has its own seed.

An adapter is merged into a copy of its base before vLLM answers, since vLLM puts no adapter on a vision
tower.

Written by hand, not exported from a notebook. Read in vLLM 0.24."""
import importlib.util
import multiprocessing
import os
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .answers import generate_answers, speakers
from .data import encode
from .models import load_processor, load_vlm, merge_lora, pick_dtype, save_model, vision_marker_ids
from .settings import SettingsError
from .vllm_sampling import EnginePrompts

__all__ = ["Panel", "Pool", "EnginePanel", "panel_of"]


class _Panel:
    """Base of the classes that answer batches with each of several models.

    A subclass sets `speakers` (the models) and `_texts`, which asks one of them."""
    speakers: list  # a tuple for each model: its name, such as before, and what `_texts` needs to run it
    _texts: Callable  # (one of `speakers` without its name, way, samples, seed) → a list of texts a sample

    def in_order(self,
        batches,  # iterator over (asked, seed): way of asking (greedy, …) → samples; seed of the sampling
    ):  # yields for each batch a list with a dict for each sample: before_greedy, … → texts
        "Answer one batch after the other"
        for asked, seed in batches:
            yield self.answer(asked, seed)

    def answer(self,
        asked: dict,  # way of asking ("greedy", "sampled", …) → the batch's samples with that way's prompts
        seed: int,  # of the sampling
    ) -> list:  # a dict for each sample: name and way, such as before_greedy → texts
        "Ask every model about a batch, in every way of asking"
        rows = [{} for _ in asked["greedy"]]
        for name, *model_parts in self.speakers:  # a name, such as before, and what `_texts` needs
            for way, samples in asked.items():
                texts_of_samples = self._texts(model_parts, way, samples, seed)
                for row, texts in zip(rows, texts_of_samples, strict=True):
                    row[f"{name}_{way}"] = texts  # such as before_greedy
        return rows


class Panel(_Panel):
    "Answers batches with a model before and after its training, by transformers in this process"

    def __init__(self,
        base: str,  # hub id, directory, or `tiny-` and a family; None where adapter is a whole model
        adapter: str,  # directory of a LoRA adapter or of a whole trained model; None: only `base`
        names: tuple,  # what the two are called in results, such as ("before", "after")
        sampling: dict,  # answers, temperature, max_new_tokens; looks, the calls of the tool `zoom`, or none
        loading: dict,  # arguments of `models.load_vlm`, such as use_4bit
    ):
        # The models that answer, (name, model, context) each, and their processor. A model runs within
        # `with context():`, which switches an adapter off for the answers before training.
        self.speakers, self.processor = speakers(base, adapter, names, **loading)
        self.sampling = sampling

    def _texts(self,
        model_parts,  # (model, context); the model answers within `with context():`
        way,  # of asking: "sampled", "greedy", "no_picture" or "shuffled"
        samples,  # list of `Sample`, with the pictures of that way
        seed,  # of the sampling
    ):
        """Ask one model: a list of texts for each sample.

        They are several answers if `way` is "sampled"; for any other way one, the best guess."""
        model, context = model_parts
        with context():  # switches the adapter off, for the answers before training
            return generate_answers(model, self.processor, samples, batch_size=len(samples),
                                    seed=seed, **_options(way, self.sampling))


def _options(
    way,  # of asking: "sampled", "greedy", "no_picture" or "shuffled"
    sampling,  # answers, temperature, max_new_tokens; looks, the calls of the tool `zoom`, if there is one
):
    "Arguments of `generate_answers`: several sampled answers if `way` is \"sampled\", else one, greedy"
    # without temperature and n, it gives one greedy answer
    options = dict(max_new_tokens=sampling["max_new_tokens"], looks=sampling.get("looks", 0))
    if way == "sampled":
        options |= dict(n=sampling["answers"], temperature=sampling["temperature"])
    return options


# Several processes

class Pool:
    "Answers batches with several processes; each holds a `Panel`, on a GPU of its own if there are enough"

    def __init__(self,
        processes: int,  # how many; each loads the models for itself
        *panel,  # the arguments of `Panel`: base, adapter, names, sampling, loading
    ):
        # spawn: a forked process must not use CUDA, and torch's threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        numbers = context.Queue()  # of 0, 1, …: `_load_panel` takes one, and with it the GPU of that number
        for number in range(processes):
            numbers.put(number)
        # Each process begins with `_load_panel`, which loads the models.
        self.executor = ProcessPoolExecutor(
            processes, context, initializer=_load_panel, initargs=(numbers, processes, panel))
        # Batches handed out and not yet returned: with two for each process none waits for work, and few
        # pictures are in memory.
        self.most_pending = 2 * processes
        # Wait until a process has loaded its models; an error in loading is raised here.
        with _dead_process_as_settings_error():
            self.processor = self.executor.submit(_processor_of_panel).result()

    def in_order(self,
        batches,  # iterator over (asked, seed): way of asking (greedy, …) → samples; seed of the sampling
    ):  # yields for each batch, in their order, a list with a dict for each sample: before_greedy, … → texts
        "Answer several batches at a time"
        pending = deque()  # futures, in the order of the batches
        # If a process of the pool dies, the error says what to do.
        with _dead_process_as_settings_error():
            for asked, seed in batches:
                # `_answer_of_panel` runs in one of the processes, with the models that it has loaded.
                pending.append(self.executor.submit(_answer_of_panel, asked, seed))
                if len(pending) == self.most_pending:  # wait for the oldest, so that few are in memory
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def close(self):
        "End the processes; batches that they have not begun are dropped"
        self.executor.shutdown(cancel_futures=True)


# In a process of a pool: its `Panel`, that is, its models, or the exception that loading them raised
_panel: Any = None


def _load_panel(
    numbers,  # queue of 0, 1, …: each process takes one, and with it the GPU of that number
    processes,  # how many there are
    panel,  # the arguments of `Panel`, as a tuple: base, adapter, names, sampling, loading
):
    """Runs first in each process of a pool: choose its GPU or its share of the CPU, and load the models.

    They become the global `_panel`."""
    global _panel
    _choose_device(numbers.get(), processes)
    try:
        _panel = Panel(*panel)
    except Exception as error:
        # `_loaded_panel` raises it later. Raised here, it would not reach the caller.
        _panel = error


def _choose_device(number, processes):
    """Give this process a GPU, or without one its share of the CPU's threads.

    `number`: of this process, from 0 on; `processes`: how many there are. Sets the whole process's state."""
    if torch.cuda.is_available():
        gpu = number % torch.cuda.device_count()  # with fewer GPUs than processes, several share one
        torch.cuda.set_device(gpu)
        os.environ["LOCAL_RANK"] = str(gpu)  # as torchrun does: models are loaded onto the GPU of this number
    else:
        # by default each process would take all cores, and they would slow each other down
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))


def _loaded_panel():
    "The `Panel` (this process's models); raises the exception that loading it raised, if there was one"
    if isinstance(_panel, Exception):
        raise _panel
    return _panel


def _processor_of_panel():
    "The processor of this process's models"
    return _loaded_panel().processor


def _answer_of_panel(asked, seed):
    "What this process's models answer to a batch: for each sample a dict, such as before_greedy → texts"
    return _loaded_panel().answer(asked, seed)


@contextmanager
def _dead_process_as_settings_error():
    "Within the block, the death of a pool's process becomes a SettingsError that says what to do"
    try:
        yield
    except BrokenProcessPool as error:
        raise SettingsError(
            "processes: one of those that ask has died, perhaps for want of memory; take fewer, or a smaller "
            "eval_batch_size. What is answered is kept, and the next run goes on from there") from error


# In vLLM

# Added to the logit of a token that vLLM must not sample: its probability is practically 0
never = -100.0


_most_prompts = 1_000_000  # more than any batch has


class EnginePanel(_Panel):
    "Answers batches with a model before and after its training, each loaded into a vLLM engine of its own"

    def __init__(self,
        base: str,  # hub id, directory, or `tiny-` and a family; None where adapter is a whole model
        adapter: str,  # directory of a LoRA adapter or of a whole trained model; None: only `base`
        names: tuple,  # what the two are called in results, such as ("before", "after")
        sampling: dict,  # answers, temperature, max_new_tokens
        loading: dict,  # settings for `models.load_vlm`, of which only max_image_size is used here
        share: float = 0.9,  # of a GPU's memory, for all engines together
        longest: int = None,  # tokens of prompt and answer that there is room for; None: as the model allows
    ):
        if not importlib.util.find_spec("vllm"):
            raise SettingsError("use_vllm: vLLM is not installed (pip install 'vlrlbook[gpu]')")
        self.sampling = sampling
        # vLLM loads neither adapters nor untrained tiny models: `_folders` writes whole models here, which
        # `close` deletes.
        self.copies = tempfile.TemporaryDirectory(prefix="vlrlbook-engines-")
        folders = self._folders(base, adapter, names)  # name → hub id or directory of a whole model
        # One processor serves both models: training changes weights, not how pictures are cut.
        any_folder = next(iter(folders.values()))
        self.processor = load_processor(any_folder, loading.get("max_image_size"))
        self.speakers = []  # the models that answer: (name, `EnginePrompts`, called like vLLM's `generate`)
        for name, folder in folders.items():
            # All engines are on the GPU at the same time.
            generate = _engine(folder, share / len(folders), longest)
            self.speakers.append((name, EnginePrompts(generate, self.processor)))

    def _folders(self,
        base,  # hub id, directory, or `tiny-` and a family; None where adapter is a whole model
        adapter,  # directory of a LoRA adapter or of a whole trained model; None: only `base`
        names,  # what the two are called in results, such as ("before", "after")
    ):  # name → hub id or directory of a whole model, for each of the two that there is
        """Find what vLLM can load for `base` and `adapter`.

        vLLM cannot load an adapter or an untrained tiny model: these become whole models in `self.copies`."""
        before, after = names
        copies = Path(self.copies.name)  # a temporary folder, in which the copies' folders are made
        folders = {}
        if base:
            folders[before] = _whole_base(str(base), str(copies / "before"))
        if adapter:
            folders[after] = _whole_trained(base, str(adapter), str(copies / "after"))
        return folders

    def _texts(self,
        model_parts,  # a list of one: the `EnginePrompts` of a model, called like vLLM's `generate`
        way,  # of asking: "sampled", "greedy", "no_picture" or "shuffled"
        samples,  # list of `Sample`, with the pictures of that way
        seed,  # of the sampling
    ):
        """Ask one model: a list of texts for each sample.

        They are several answers if `way` is "sampled"; for any other way one, the best guess."""
        [generate] = model_parts
        prompts = [self._prompt(sample) for sample in samples]
        parameters = self._sampling_parameters(way, len(samples), seed)
        outputs = generate(prompts, parameters, use_tqdm=False)
        return [[answer.text for answer in output.outputs] for output in outputs]

    def _prompt(self, sample):
        """A sample's prompt as a dict: prompt_token_ids, all tokens, and multi_modal_data, its pictures.

        The tokens are those of training, all tokens of a picture included. `EnginePrompts` leaves one token
        for each, since vLLM expands it itself, and checks that vLLM then reads the same tokens."""
        ids = encode(self.processor, [sample])["input_ids"][0].tolist()
        if not sample.images:
            return dict(prompt_token_ids=ids)
        return dict(prompt_token_ids=ids, multi_modal_data={"image": list(sample.images)})

    def _sampling_parameters(self,
        way,  # of asking: "sampled", or any other, for which there is one greedy answer
        count,  # of prompts in the batch
        seed,  # of the batch
    ):
        """Make vLLM's `SamplingParams` for each of `count` prompts: several answers if `way` is "sampled".

        Each answer has a seed of its own. With the same seed, equal prompts would get equal answers."""
        from vllm import SamplingParams
        # `never` is added to the logits of tokens that mark a picture: there is no picture in an answer.
        suppressed = {token: never for token in vision_marker_ids(self.processor)}
        options = dict(max_tokens=self.sampling["max_new_tokens"], temperature=0.0, logit_bias=suppressed)
        if way == "sampled":
            options |= dict(n=self.sampling["answers"], temperature=self.sampling["temperature"])
        # vLLM gives the n answers of a prompt the seeds `seed` to `seed + n - 1`, so the next prompt begins n
        # further. No batch has a million prompts (`_most_prompts`): two batches never share a seed.
        n = options.get("n", 1)
        first = seed * _most_prompts
        return [SamplingParams(seed=(first + number) * n, **options) for number in range(count)]

    def close(self):
        "Free the engines and delete the merged copies"
        self.speakers.clear()  # nothing else holds the engines
        self.copies.cleanup()


def _whole_base(
    base,  # hub id, folder of a model, or `tiny-` and a family, such as tiny-qwen2_5_vl
    copy,  # folder to write, if one is needed; it must not exist yet
):
    "What vLLM can load for `base`: that itself, or the folder `copy`, into which a tiny model is saved first"
    if not base.startswith("tiny-"):
        return base
    # A tiny model's weights are drawn from a seed, so there are no files yet.
    model, processor = load_vlm(base)
    save_model(model, processor, copy)
    return copy


def _whole_trained(
    base,  # hub id or folder of the model under the adapter; not used for a whole trained model
    adapter,  # folder of a LoRA adapter, or of a whole trained model
    copy,  # folder to write, if one is needed; it must not exist yet
):
    "A folder from which vLLM loads `adapter`: a LoRA adapter is merged with its base into the folder `copy`"
    # PEFT writes this file beside every adapter
    if not Path(adapter, "adapter_config.json").exists():
        return adapter  # a whole trained model
    merge_lora(str(base), adapter, copy)
    return copy


def _engine(
    folder,  # of a whole model, or a hub id
    share,  # of the GPU's memory that this engine may take
    longest,  # tokens of prompt and answer; None: as the model allows
):  # the engine's method `generate`
    "Start a vLLM engine with a model, in the number type of this machine: bfloat16 on a GPU, else float32"
    from vllm import LLM
    dtype = str(pick_dtype()).removeprefix("torch.")  # such as "bfloat16"
    return LLM(folder, dtype=dtype, gpu_memory_utilization=share, max_model_len=longest).generate


@contextmanager
def panel_of(
    processes: int,  # 1: this process answers
    *panel,  # the arguments of `Panel`: base, adapter, names, sampling, loading
    engine: dict = None,  # share and longest of `EnginePanel`: vLLM answers; None: transformers does
):  # a `Panel`, `Pool` or `EnginePanel`, closed at the end
    "Within the block, an object whose `in_order` answers batches: in this process, in several, or by vLLM"
    if engine is None and processes == 1:
        yield Panel(*panel)
        return
    answering = Pool(processes, *panel) if engine is None else EnginePanel(*panel, **engine)
    try:
        yield answering
    finally:
        answering.close()
