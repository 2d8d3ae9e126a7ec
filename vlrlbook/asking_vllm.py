"""Put batches of pictures to vLLM instead of transformers: the same questions, another engine.

`EnginePanel` stands behind the method of `asking.Panel`. An adapter is merged into a copy of its base first,
for vLLM puts no adapter on a vision tower. What vLLM has read is compared with what training would read.

Written by hand, not exported from a notebook. Read in vLLM 0.24."""
import importlib.util
import tempfile
from pathlib import Path

from .data import encode
from .models import load_vlm, merge_lora, pick_dtype, save_model, vision_marker_ids
from .settings import SettingsError
from .vllm_sampling import EnginePrompts

__all__ = ["EnginePanel"]

never = -100.0  # added to a token's logit: its probability is then 0 for all practical purposes


class EnginePanel:
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
        _, self.processor = load_vlm(any_folder, max_image_size=loading.get("max_image_size"))
        self.engines = {}
        for name, folder in folders.items():
            self.engines[name] = EnginePrompts(_engine(folder, share / len(folders), longest), self.processor)

    def _folders(self, base, adapter, names):
        "Name → whole model that vLLM can load: as it is, or as a copy that is made here"
        before, after = names
        copies = Path(self.copies.name)
        folders = {}
        if base:
            folders[before] = str(base)
            if str(base).startswith("tiny-"):  # drawn from a seed: there are no files of it
                folders[before] = str(copies / "before")
                save_model(*load_vlm(str(base)), folders[before])
        if adapter and Path(adapter, "adapter_config.json").exists():
            folders[after] = str(copies / "after")
            merge_lora(str(base), str(adapter), folders[after])
        elif adapter:
            folders[after] = str(adapter)
        return folders

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
        for name, engine in self.engines.items():
            for way, samples in asked.items():
                prompts = [self._prompt(sample) for sample in samples]
                outputs = engine(prompts, self._wishes(way, len(samples), seed), use_tqdm=False)
                for row, output in zip(rows, outputs, strict=True):
                    row[f"{name}_{way}"] = [said.text for said in output.outputs]
        return rows

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
        self.engines.clear()
        self.copies.cleanup()


def _engine(folder, share, longest):
    "vLLM's `generate` over the model in `folder`, in the number type that this book loads it in"
    from vllm import LLM
    dtype = str(pick_dtype()).removeprefix("torch.")
    return LLM(folder, dtype=dtype, gpu_memory_utilization=share, max_model_len=longest).generate
