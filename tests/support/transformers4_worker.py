"""Run by an interpreter with transformers 4.57: loads model directories and says what they give. Reads a JSON object
{directory: path of an npz with the model's inputs} and writes the logits, tokens and pixels of each beside its inputs."""
import json
import sys

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

TEXT = "How many discs are there? abnormal 12 <think>"


def looked_at(folder, inputs):
    "What a directory gives in this release"
    model, info = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True, dtype="float32")
    wrong = {k: sorted(map(str, v)) for k, v in info.items() if v}
    given = {k: torch.tensor(v) for k, v in np.load(inputs).items() if k != "mm_token_type_ids"}
    words = given["input_ids"][:, :12].clone()
    words[words == model.config.to_dict().get("image_token_id", -1)] = 10 # no picture goes with it
    with torch.no_grad():
        logits = model.eval()(**given).logits
        text = model(input_ids=words, attention_mask=torch.ones_like(words)).logits
    tokenizer, processor = AutoTokenizer.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": TEXT}]}]
    asked = processor.apply_chat_template(messages, add_generation_prompt=True)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 130, 3), dtype=np.uint8))
    made = processor(text=[asked], images=[picture], return_tensors="pt")
    np.savez(f"{inputs}.out.npz", logits=logits.numpy(), text=text.numpy(), words=words.numpy(), pixels=made["pixel_values"].numpy(),
             ids=made["input_ids"].numpy(), own=np.array(tokenizer(TEXT)["input_ids"]))
    return dict(wrong=wrong, said=asked, eos=tokenizer.eos_token, dtype=str(model.config.dtype), version=transformers.__version__)


found = {}
for folder, inputs in json.load(sys.stdin).items():
    try: found[folder] = looked_at(folder, inputs)
    except Exception as e: found[folder] = dict(error=f"{type(e).__name__}: {e}"[:500])
print("ANSWER" + json.dumps(found))
