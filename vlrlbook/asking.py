"""Put batches of pictures to a model before and after its training: in this process, in several, or in vLLM.

Chapter 06 decides what is asked, in which order and with which seed; here is who answers. The answers of
several processes are those of one, for each batch brings its own seed.

An adapter is merged into a copy of its base before vLLM answers, for vLLM puts no adapter on a vision tower.

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
    "Asks each of `self.speakers`, which are tuples of a name and what `_texts` needs to make it speak"
    speakers: list
    _texts: Callable

    def in_order(self,
        batches,  # iterator over (asked, seed), see `answer`
    ):  # yields what `answer` returns, batch by batch
        "Answer one batch after the other"
        for asked, seed in batches:
            yield self.answer(asked, seed)

    def answer(self,
        asked: dict,  # way of asking → the batch's samples as they are put that way
        seed: int,  # of the sampling
    ) -> list:  # for each sample: name and way, such as before_greedy → texts
        "The texts of every model in every way"
        rows = [{} for _ in asked["greedy"]]
        for name, *speaker in self.speakers:
            for way, samples in asked.items():
                texts = self._texts(speaker, way, samples, seed)
                for row, own in zip(rows, texts, strict=True):
                    row[f"{name}_{way}"] = own
        return rows


class Panel(_Panel):
    "A model before and after its training, loaded once, that answers batches"

    def __init__(self,
        base: str,  # hub id, directory, or `tiny-` and a family; None where adapter is a whole model
        adapter: str,  # directory of a LoRA adapter or of a whole trained model; None: only `base`
        names: tuple,  # what base and adapter are called
        sampling: dict,  # answers, temperature, max_new_tokens
        loading: dict,  # for `models.load_vlm`
    ):
        self.speakers, self.processor = speakers(base, adapter, names, **loading)
        self.sampling = sampling

    def _texts(self, speaker, way, samples, seed):
        "A list of texts for each sample"
        model, entered = speaker
        with entered():
            return generate_answers(model, self.processor, samples, batch_size=len(samples),
                                    seed=seed, **_options(way, self.sampling))


def _options(way, sampling):
    "How long an answer may be, how many there are, and at which temperature"
    options = dict(max_new_tokens=sampling["max_new_tokens"], looks=sampling.get("looks", 0))
    if way == "sampled":
        options |= dict(n=sampling["answers"], temperature=sampling["temperature"])
    return options


# Several processes

class Pool:
    "Panels in processes of their own, behind the methods of one; each has a GPU to itself, if there are any"

    def __init__(self,
        processes: int,  # how many; each loads the models for itself
        *panel,  # the arguments of `Panel`
    ):
        # spawn: a forked process must not use CUDA, and torch's threads do not survive a fork
        context = multiprocessing.get_context("spawn")
        numbers = context.Queue()
        for number in range(processes):
            numbers.put(number)
        self.executor = ProcessPoolExecutor(processes, context, _begin, (numbers, processes, panel))
        self.ahead = 2 * processes  # pictures of so many batches are decoded at a time
        with _deaths_told():
            self.processor = self.executor.submit(_processor).result()

    def in_order(self,
        batches,  # iterator over (asked, seed), see `Panel.answer`
    ):  # yields what `Panel.answer` returns, in the order of the batches
        "Answer several batches at a time"
        waiting = deque()
        with _deaths_told():
            for asked, seed in batches:
                waiting.append(self.executor.submit(_answer, asked, seed))
                if len(waiting) == self.ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def close(self):
        "End the processes; what waits is not answered any more"
        self.executor.shutdown(cancel_futures=True)


_panel: Any = None  # of this process, while it is one of a pool; or the error that loading has met


def _begin(numbers, processes, panel):
    "A process of a pool takes a number, with it its GPU or its share of the CPU, and loads the models"
    global _panel
    number = numbers.get()
    if torch.cuda.is_available():
        number %= torch.cuda.device_count()
        torch.cuda.set_device(number)
        os.environ["LOCAL_RANK"] = str(number)  # read by `models` where it loads a checkpoint
    else:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    try:
        _panel = Panel(*panel)
    except Exception as error:
        # Raised by `_loaded`: what an initializer raises is only printed, and the pool is broken.
        _panel = error


def _loaded():
    "The panel of this process"
    if isinstance(_panel, Exception):
        raise _panel
    return _panel


def _processor():
    "The processor of this process"
    return _loaded().processor


def _answer(asked, seed):
    "What the models of this process say to a batch"
    return _loaded().answer(asked, seed)


@contextmanager
def _deaths_told():
    "A dead process is told in words"
    try:
        yield
    except BrokenProcessPool as error:
        raise SettingsError(
            "processes: one of those that ask has died, perhaps for want of memory; take fewer, or a smaller "
            "eval_batch_size. What is answered is kept, and the next run goes on from there") from error


# In vLLM

never = -100.0  # added to a token's logit: its probability is then 0 for all practical purposes


class EnginePanel(_Panel):
    "A model before and after its training, each in a vLLM engine of its own, that answer batches"

    def __init__(self,
        base: str,  # hub id, directory, or `tiny-` and a family; None where adapter is a whole model
        adapter: str,  # directory of a LoRA adapter or of a whole trained model; None: only `base`
        names: tuple,  # what base and adapter are called
        sampling: dict,  # answers, temperature, max_new_tokens
        loading: dict,  # for `models.load_vlm`; of it max_image_size is used
        share: float = 0.9,  # of a GPU's memory, for all engines together
        longest: int = None,  # tokens of prompt and answer that there is room for; None: as the model allows
    ):
        if not importlib.util.find_spec("vllm"):
            raise SettingsError("use_vllm: vLLM is not installed (pip install 'vlrlbook[gpu]')")
        self.sampling = sampling
        self.copies = tempfile.TemporaryDirectory(prefix="vlrlbook-engines-")  # merged models
        folders = self._folders(base, adapter, names)
        # The processor of the base serves both: training changes weights, not how pictures are cut.
        any_folder = next(iter(folders.values()))
        self.processor = load_processor(any_folder, loading.get("max_image_size"))
        self.speakers = [(name, EnginePrompts(_engine(folder, share / len(folders), longest), self.processor))
                         for name, folder in folders.items()]

    def _folders(self, base, adapter, names):
        "Name → whole model that vLLM can load: as it is, or as a copy that is made here"
        before, after = names
        copies = Path(self.copies.name)
        folders = {}
        if base:
            folders[before] = str(base)
            if str(base).startswith("tiny-"):  # drawn from a seed: there are no files of it
                folders[before] = str(copies / "before")
                model, processor = load_vlm(str(base))
                save_model(model, processor, folders[before])
        if adapter and Path(adapter, "adapter_config.json").exists():
            folders[after] = str(copies / "after")
            merge_lora(str(base), str(adapter), folders[after])
        elif adapter:
            folders[after] = str(adapter)
        return folders

    def _texts(self, speaker, way, samples, seed):
        "A list of texts for each sample"
        engine, = speaker
        prompts = [self._prompt(sample) for sample in samples]
        outputs = engine(prompts, self._wishes(way, len(samples), seed), use_tqdm=False)
        return [[said.text for said in output.outputs] for output in outputs]

    def _prompt(self, sample):
        "A sample as `EnginePrompts` takes it: expanded tokens, as training reads them, and the pictures"
        ids = encode(self.processor, [sample])["input_ids"][0].tolist()
        if not sample.images:
            return dict(prompt_token_ids=ids)
        return dict(prompt_token_ids=ids, multi_modal_data={"image": list(sample.images)})

    def _wishes(self, way, count, seed):
        "What is wanted of each of `count` prompts; each has its own seed, or equal prompts would answer alike"
        from vllm import SamplingParams
        # Tokens that mark a picture are never said: see `answers.generate_answers`.
        unsaid = {token: never for token in vision_marker_ids(self.processor)}
        options = dict(max_tokens=self.sampling["max_new_tokens"], temperature=0.0, logit_bias=unsaid)
        if way == "sampled":
            options |= dict(n=self.sampling["answers"], temperature=self.sampling["temperature"])
        return [SamplingParams(seed=seed * count + place, **options) for place in range(count)]

    def close(self):
        "Let the engines and the merged copies go"
        self.speakers.clear()
        self.copies.cleanup()


def _engine(folder, share, longest):
    "vLLM's `generate` over the model in `folder`, in the number type that this book loads it in"
    from vllm import LLM
    dtype = str(pick_dtype()).removeprefix("torch.")
    return LLM(folder, dtype=dtype, gpu_memory_utilization=share, max_model_len=longest).generate


@contextmanager
def panel_of(
    processes: int,  # 1 answers in this one
    *panel,  # the arguments of `Panel`
    engine: dict = None,  # share and longest of `EnginePanel`: vLLM answers; None: transformers does
):  # a `Panel`, `Pool` or `EnginePanel`, closed at the end
    "Who answers: this process, several, or vLLM"
    if engine is None and processes == 1:
        yield Panel(*panel)
        return
    answering = Pool(processes, *panel) if engine is None else EnginePanel(*panel, **engine)
    try:
        yield answering
    finally:
        answering.close()
