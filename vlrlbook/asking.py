"""Put batches of pictures to a model before and after its training: in this process, in several, or in vLLM.

Chapter 06 decides what is asked, in which order and with which seed; here is who answers. The answers of
several processes are those of one, for each batch brings its own seed.

Written by hand, not exported from a notebook."""
import multiprocessing
import os
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import torch

from .answers import generate_answers, speakers
from .settings import SettingsError

__all__ = ["Panel", "Pool", "panel_of"]


class Panel:
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
        for name, model, entered in self.speakers:
            for way, samples in asked.items():
                with entered():
                    texts = generate_answers(model, self.processor, samples, batch_size=len(samples),
                                             seed=seed, **_options(way, self.sampling))
                for row, own in zip(rows, texts):
                    row[f"{name}_{way}"] = own
        return rows


def _options(way, sampling):
    "How long an answer may be, how many there are, and at which temperature"
    options = dict(max_new_tokens=sampling["max_new_tokens"])
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


_panel = None  # of this process, while it is one of a pool; or the error that loading has met


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


@contextmanager
def panel_of(
    processes: int,  # 1 answers in this one
    *panel,  # the arguments of `Panel`
    engine: dict = None,  # share and longest of `asking_vllm.EnginePanel`: vLLM answers; None: transformers does
):  # a `Panel`, `Pool` or `EnginePanel`, closed at the end
    "Who answers: this process, several, or vLLM"
    if engine is None and processes == 1:
        yield Panel(*panel)
        return
    if engine is None:
        answering = Pool(processes, *panel)
    else:
        from .asking_vllm import EnginePanel
        answering = EnginePanel(*panel, **engine)
    try:
        yield answering
    finally:
        answering.close()
