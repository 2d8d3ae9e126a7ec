"""Groups that teach in the place of groups that do not: what DAPO calls dynamic sampling, as a mixin before
TRL's GRPOTrainer.

Chapter 05 says why and shows a swap. Written by hand, not exported from a notebook."""
import random

import torch

from .shared_prompt import join_rows, split_rows, take_rows
from .training import BeforeGRPOTrainer

__all__ = ["RefillGroups", "silent_groups", "swap_groups"]

# The spread of equal float32 is seldom exactly 0, so TRL's advantages of a silent group are not either: some
# 6e-8 over the 1e-4 that TRL adds before it divides. Those of a group that teaches are near 1.
SILENT_BELOW = 0.01


class RefillGroups(BeforeGRPOTrainer):
    "Mixin before TRL's GRPOTrainer: silent groups give way to new prompts, `refill` rounds a step at most"

    refill = 0

    def _generate_and_score_completions(self, inputs):
        # TRL 1.16 asks this method for the batch of a step, sampled and scored. If it stops asking, silent
        # groups stay and `extra_answers` is missing from the log.
        batch = super()._generate_and_score_completions(inputs)
        if not (self.refill and self.model.training):
            return batch  # TRL asks here for its evaluation too, whose prompts must stay
        G, extra = self.num_generations, 0
        for turn in range(self.refill):
            wanted = self._most_silent(batch)
            if not wanted:
                break
            extra += wanted * G  # answers that were sampled beside those of the step
            prompts = self._new_prompts(wanted, turn)
            fresh = super()._generate_and_score_completions(prompts)
            batch = swap_groups(batch, fresh, G)
        # TRL divides the loss by the answer tokens of all processes; the swap has changed how many there are.
        counted = batch["completion_mask"]
        if "tool_mask" in batch:
            counted = counted * batch["tool_mask"]  # what a tool has told is no token of the answer
        own_tokens = counted.sum().reshape(1)
        count = self.accelerator.gather(own_tokens).sum()
        silent = silent_groups(batch["advantages"], G)
        metrics = self._metrics["train"]
        metrics["silent_left"].append(len(silent) * G / len(batch["advantages"]))
        metrics["extra_answers"].append(extra / len(inputs))
        return batch | {"num_items_in_batch": count}

    def _most_silent(self, batch):
        "Silent groups of the process that has the most: each round is entered by all processes or by none"
        silent = silent_groups(batch["advantages"], self.num_generations)
        own = torch.tensor([len(silent)], device=self.accelerator.device)
        return int(self.accelerator.gather(own).max())

    def _new_prompts(self, n, turn):
        "Rows of `n` prompts, each G times, by seed, step, round and process: a resumed run draws the same"
        name = f"{self.args.seed} {self.state.global_step} {turn} {self.accelerator.process_index}"
        chosen = random.Random(name).sample(range(len(self.train_dataset)), n)
        rows = []
        for i in chosen:
            for _ in range(self.num_generations):
                # read anew each time: a row that is read twice is two dictionaries
                rows.append(self.train_dataset[i])
        return rows


def silent_groups(
    advantages: torch.Tensor,  # [rows], whole groups one after the other
    G: int,  # answers of a group
) -> list:  # numbers of the groups whose rewards were all equal
    "Groups without an advantage: those in which every advantage is far below any that teaches"
    largest = advantages.view(-1, G).abs().amax(1)
    return (largest < SILENT_BELOW).nonzero()[:, 0].tolist()


def swap_groups(
    batch: dict,  # what TRL scored, rows in whole groups
    fresh: dict,  # the same for new prompts
    G: int,  # answers of a group
) -> dict:  # `batch` with silent groups replaced by groups of `fresh` that are not, while there are any
    "Put groups that teach in the place of groups that do not; pads to the longer prompt and answer"
    # TRL's own batches are swapped, so that rewards and pictures are never computed twice.
    useless = silent_groups(fresh["advantages"], G)
    groups = range(len(fresh["advantages"]) // G)
    good = [g for g in groups if g not in useless]
    silent = silent_groups(batch["advantages"], G)
    if not silent or not good:
        return batch
    n = len(batch["advantages"])
    rows = list(range(n))
    for old, new in zip(silent, good):
        place = old * G
        # in the joined batch the rows of `fresh` come behind the n rows of `batch`
        first = n + new * G
        rows[place:place + G] = range(first, first + G)
    both = _side_by_side(split_rows(batch), split_rows(fresh))
    return join_rows(take_rows(both, rows))


def _side_by_side(a, b):
    "Rows of both batches: prompts padded on the left, answers on the right, what covers both at both ends"
    P, C = _widths(a)
    other_P, other_C = _widths(b)
    P, C = max(P, other_P), max(C, other_C)
    both = {}
    a, b = _with_fields_of(a, b), _with_fields_of(b, a)
    for name in a:
        one, two = a[name], b[name]
        if not _of_whole_answers(name, a, b):
            one, two = _widened(name, a, P, C), _widened(name, b, P, C)
        if isinstance(one, list):
            both[name] = one + two
        elif torch.is_tensor(one) and one.dim():
            both[name] = torch.cat([one, two])
        else:
            both[name] = one  # a number of the whole batch
    return both


def _with_fields_of(batch, other):
    "A batch with what only the other has: where no row has a picture, no field of pictures is there"
    n = len(batch["advantages"])
    added = {}
    for name in other.keys() - batch.keys():
        theirs = other[name]
        if isinstance(theirs, list):  # an item a row: a number of pictures, or what they became
            nothing = 0 if isinstance(theirs[0], int) else theirs[0][:0]
            added[name] = [nothing] * n
        else:  # kinds of tokens, of prompt and answer: all of them text
            added[name] = theirs.new_zeros(n, sum(_widths(batch)))
    return batch | added


def _of_whole_answers(name, a, b):
    "Whether a field has one number an answer [rows, 1], as TRL's ratio of whole answers under vLLM"
    if not torch.is_tensor(a[name]) or a[name].dim() < 2 or name.startswith("prompt"):
        return False
    # Where all answers are one token long the width does not tell, so both batches are looked at.
    return any(batch[name].shape[1] == 1 < _widths(batch)[1] for batch in (a, b))


def _widths(batch):
    "Tokens of prompt and answer"
    return batch["prompt_ids"].shape[1], batch["completion_ids"].shape[1]


def _widened(name, batch, P, C):
    "One tensor of a batch, padded as generation would have padded it beside longer ones"
    value = batch[name]
    if not torch.is_tensor(value) or value.dim() < 2:
        return value
    own_P, own_C = _widths(batch)
    left, right = P - own_P, C - own_C
    if name.startswith("prompt"):
        return torch.nn.functional.pad(value, (left, 0))
    covers_both = value.shape[1] == own_P + own_C
    return torch.nn.functional.pad(value, (left if covers_both else 0, right))
