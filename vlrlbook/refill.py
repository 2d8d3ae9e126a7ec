"""Groups that teach in the place of groups that do not: what DAPO calls dynamic sampling, as a mixin before
TRL's GRPOTrainer.

Chapter 05 says why and shows a swap. Written by hand, not exported from a notebook."""
import math
import random

import torch

from .rewards import silent_share
from .shared_prompt import join_rows, split_rows, take_rows
from .training import BeforeGRPOTrainer

__all__ = ["KnownRewards", "RefillGroups", "silent_groups", "swap_groups"]

# A group is silent when all its rewards are equal: its advantages are 0 and it teaches nothing. A trainer
# looks at the rewards themselves. Where only advantages are known, this is the limit: rounding of float32
# makes the standard deviation about 6e-8 instead of 0, and TRL adds 1e-4 before it divides by it, so the
# advantages are about 6e-8 / 1e-4 instead of 0. Those of a group that teaches are near 1, if each was divided
# by the spread of its group.
SILENT_BELOW = 0.01


class KnownRewards(BeforeGRPOTrainer):
    """Mixin before TRL's GRPOTrainer: a scored batch has the field `rewards`, NaN for a reward of None.

    With `leaves_out_unpaid` an answer whose reward is None is out of the loss, out of the number of tokens by
    which the loss is divided, and out of the KL term. TRL (1.16) alone takes its advantage for 0."""

    leaves_out_unpaid = False

    def _calculate_rewards(self, inputs, prompts, *more):
        """Overrides TRL's (1.16), which returns the rewards of all processes: [all rows, reward functions].

        Keeps those of this process. If a new TRL does not call this method any more, the batch gets no field
        `rewards`: an AttributeError at the first step."""
        rewards = super()._calculate_rewards(inputs, prompts, *more)
        first = self.accelerator.process_index * len(prompts)  # row of this process, as TRL cuts advantages
        self._own_rewards = rewards[first:first + len(prompts), 0]  # of the one reward function of a run
        return rewards

    def _generate_and_score_completions(self, inputs):
        """Overrides TRL's (1.16): sample and score a batch, and add the field `rewards`, [rows].

        With `leaves_out_unpaid` answers whose reward is None, such as cut ones, are masked out of the loss.
        If a new TRL does not call this method any more, they stay in it."""
        batch = super()._generate_and_score_completions(inputs)
        # TRL has just called our `_calculate_rewards`, which kept them: [rows] of this process, NaN for None.
        batch = batch | {"rewards": self._own_rewards}
        if not self.leaves_out_unpaid:
            return batch
        # As TRL's `mask_truncated_completions` does it, but for each answer whose reward is None.
        is_paid = (~batch["rewards"].isnan()).to(batch["completion_mask"].dtype)
        batch["completion_mask"] = batch["completion_mask"] * is_paid[:, None]
        # TRL divides the loss by this number of tokens, of all processes: now without the masked ones.
        return batch | {"num_items_in_batch": self._tokens_of_all(batch)}

    def _tokens_of_all(self, batch):
        "How many tokens of answers are in the loss, over all processes: TRL divides the loss by it"
        return self.accelerator.gather(_answer_tokens(batch)).sum()


class RefillGroups(KnownRewards):
    """Mixin before TRL's GRPOTrainer: replaces groups whose rewards are all equal by groups for new prompts.

    Such a silent group teaches nothing. `refill` is how often a step may try new prompts; 0 tries none."""

    refill = 0

    def _generate_and_score_completions(self, inputs):
        """Overrides TRL's (1.16): sample and score a step's batch, then replace silent groups if possible.

        A silent group has equal rewards, so nothing is learned from it. If a new TRL does not call this
        method any more, silent groups stay and `extra_answers` is missing from the log."""
        batch = super()._generate_and_score_completions(inputs)
        if not (self.refill and self.model.training):
            return _without_rewards(batch)  # TRL calls this for its evaluation too, whose prompts must stay
        G, extra_answers = self.num_generations, 0
        for attempt in range(self.refill):  # how often at most a step may try new prompts
            # The largest number of silent groups on any process: all processes must sample equally many.
            most_silent = self._most_silent(batch)
            if not most_silent:
                break
            extra_answers += most_silent * G
            prompts = self._new_prompts(most_silent, attempt)  # so many rows of the data set, each G times
            # What TRL logs of this extra call is deleted again: the log is to show the step's own sample.
            values_before = self._values_logged()
            new_batch = super()._generate_and_score_completions(prompts)
            self._log_no_more_than(values_before)
            batch = swap_groups(batch, new_batch, G)  # only its groups that are not silent are taken
        # The new answers have other lengths, and TRL divides the loss by the number of all answers' tokens.
        tokens_of_all = self._tokens_of_all(batch)
        self._log_shares(batch, extra_answers / len(inputs))  # `inputs`: a row for each answer of the step
        # `rewards` is a field of ours: TRL gets a batch with the fields that it makes itself.
        return _without_rewards(batch) | {"num_items_in_batch": tokens_of_all}

    def _values_logged(self):
        "How many values TRL has noted of each number since it last logged: a dict, name → count"
        return {name: len(values) for name, values in self._metrics["train"].items()}

    def _log_no_more_than(self, counts):
        """Delete what TRL noted of a refill. `counts`: name of a number → how many values it had before that.

        TRL (1.16) notes reward, lengths and parts of each call and logs the mean over the calls, in which a
        few refilled groups would weigh as much as the whole step. So the log shows the step's own sample, and
        in `extra_answers` how much was refilled. If a new TRL keeps its numbers elsewhere, both are mixed."""
        # Name → list of values. That of num_tokens always holds one: the total, which includes the refill.
        metrics = self._metrics["train"]
        for name, values in list(metrics.items()):
            del values[counts.get(name, 0):]
            if not values:  # only the refill had such a number; TRL would log None for it
                del metrics[name]

    def _log_shares(self, batch, extra_share):
        """Log which share of the batch is in silent groups after the swaps, and how many answers they took.

        A silent group has equal rewards. `extra_share`: 0.5 if half a batch was sampled in addition."""
        G = self.num_generations
        silent = _silent_in(batch, G)  # list of the groups' numbers
        metrics = self._metrics["train"]  # TRL's, by name; it logs their means
        metrics["silent_left"].append(len(silent) * G / len(batch["advantages"]))
        metrics["extra_answers"].append(extra_share)

    def _most_silent(self, batch):
        """How many silent groups (all rewards equal) the process with the most of them has.

        Every process takes this number, since all must sample together in a round or none may. `batch`: as
        TRL scored it, with `advantages` and `rewards` [rows]."""
        silent = _silent_in(batch, self.num_generations)
        own_count = torch.tensor([len(silent)], device=self.accelerator.device)
        return int(self.accelerator.gather(own_count).max())

    def _new_prompts(self, n, attempt):
        """Draw `n` rows of the data set, and return each G times: a list of dictionaries.

        The draw is seeded by the run's seed, the step, the attempt (0, 1, … of this step) and the process, so
        that a resumed run draws the same rows."""
        draw_seed = f"{self.args.seed} {self.state.global_step} {attempt} {self.accelerator.process_index}"
        chosen = random.Random(draw_seed).sample(range(len(self.train_dataset)), n)
        rows = []
        for i in chosen:
            for _ in range(self.num_generations):  # TRL wants a row for each answer
                # Each access makes a dictionary of its own, so that TRL may change one and not the others.
                rows.append(self.train_dataset[i])
        return rows


def _answer_tokens(batch):
    "How many tokens of a batch's answers the model wrote, as a tensor [1], which processes can gather"
    answer_mask = batch["completion_mask"]  # [rows, answer], 1 on tokens
    if "tool_mask" in batch:
        answer_mask = answer_mask * batch["tool_mask"]  # 0 on text that a tool returned
    return answer_mask.sum().reshape(1)


def _without_rewards(batch):
    "A batch without the field `rewards`, as TRL makes it"
    return {name: field for name, field in batch.items() if name != "rewards"}


def _silent_in(batch, G):
    """Numbers of the groups of a batch (G answers each) whose rewards are all equal.

    By the field `rewards`, NaN where an answer is left out. A batch without that field tells it by its
    advantages, rightly only if each was divided by the spread of its group."""
    if "rewards" not in batch:
        return silent_groups(batch["advantages"], G)
    silent = []
    for number, group in enumerate(batch["rewards"].view(-1, G).tolist()):  # one copy from the GPU
        rewards = [None if math.isnan(reward) else reward for reward in group]
        if silent_share(rewards, G):  # of one group: 1 or 0; it is what the column `silent` counts
            silent.append(number)
    return silent


def silent_groups(
    advantages: torch.Tensor,  # [rows], whole groups one after the other, divided by their groups' spread
    G: int,  # answers of a group
) -> list:  # numbers of the groups whose rewards were all equal
    "Find the groups that teach nothing: those whose advantages are all nearly 0"
    largest = advantages.view(-1, G).abs().amax(1)
    return (largest < SILENT_BELOW).nonzero()[:, 0].tolist()


def swap_groups(
    batch: dict,  # what TRL scored, rows in whole groups; `rewards`, else `advantages`, show which are silent
    fresh: dict,  # a batch for new prompts, also as TRL scored it, with the same fields
    G: int,  # answers of a group
) -> dict:  # `batch` with as many of its silent groups replaced as `fresh` has groups that teach
    """Replace silent groups, which teach nothing, by groups of another batch that are not silent.

    Prompts and answers are padded to the longest of both batches. Rewards and pictures are copied with their
    rows, not computed again."""
    silent_in_fresh = _silent_in(fresh, G)
    groups = range(len(fresh["advantages"]) // G)
    teaching = [group for group in groups if group not in silent_in_fresh]
    silent = _silent_in(batch, G)
    if not silent or not teaching:
        return batch
    # TRL keeps the pictures of all rows in one tensor. `split_rows` makes a list of it, an item for each row,
    # so that rows can be taken in any order; `join_rows` makes one tensor again.
    both = _concatenated(split_rows(batch), split_rows(fresh))
    # Row numbers in `both`: those of `batch`, but each silent group's replaced by those of one that teaches,
    # until one of the two kinds is used up.
    chosen = _chosen_rows(len(batch["advantages"]), silent, teaching, G)
    return join_rows(take_rows(both, chosen))


def _chosen_rows(n, silent, teaching, G):
    """Numbers of n rows: those of a batch, and in the place of its silent groups those of groups that teach.

    The latter are in another batch, whose rows are counted from n on. `silent`, `teaching`: group numbers.
    n = 4, silent = [1], teaching = [0], G = 2 → [0, 1, 4, 5]."""
    chosen = list(range(n))
    for old_group, new_group in zip(silent, teaching):  # as many as there are of both
        old_start = old_group * G
        new_start = n + new_group * G
        chosen[old_start:old_start + G] = range(new_start, new_start + G)
    return chosen


def _concatenated(
    a,  # dict: name of a field → tensor with a row for each answer, or list of such rows (pictures)
    b,  # another such batch; it may have other lengths, and lack the fields of pictures
):
    "Two batches as one, the rows of `a` first; prompts and answers are padded to the longest of both"
    own_P, own_C = _widths(a)  # tokens of its prompts and of its answers
    other_P, other_C = _widths(b)
    P, C = max(own_P, other_P), max(own_C, other_C)
    a, b = _with_missing_fields(a, b), _with_missing_fields(b, a)  # now both have the same fields
    both = {}
    for name in a:
        of_a, of_b = a[name], b[name]
        # A number for each answer, [rows, 1], must not become a number for each token.
        if not _has_one_column(name, a, b):
            # Only tensors with an axis of tokens are padded; others come back as they are.
            of_a, of_b = _padded(name, a, P, C), _padded(name, b, P, C)
        both[name] = _both_rows(of_a, of_b)
    return both


def _both_rows(of_a, of_b):
    "One field of two batches, a list or tensor, as one; a field with one value for the batch is that of `a`"
    if isinstance(of_a, list):
        return of_a + of_b
    if torch.is_tensor(of_a) and of_a.dim():
        return torch.cat([of_a, of_b])
    return of_a  # `num_items_in_batch`, which is counted anew after the groups are swapped


def _with_missing_fields(batch, other):
    """A batch with empty values added for the fields that only the batch `other` has.

    A batch without any picture has no fields of pictures. In both a field is a tensor with a row for each
    answer, or (pictures) a list of such rows."""
    n = len(batch["advantages"])
    added = {}
    for name in other.keys() - batch.keys():
        other_field = other[name]
        if isinstance(other_field, list):  # for each row the number of its pictures, or a tensor of them
            of_first_row = other_field[0]  # shows what kind the entries are
            no_pictures = 0 if isinstance(of_first_row, int) else of_first_row[:0]  # 0, or an empty tensor
            added[name] = [no_pictures] * n
        else:  # token types, here [rows, P + C] of this batch's lengths: 0 stands for text
            P, C = _widths(batch)
            added[name] = other_field.new_zeros(n, P + C)
    return batch | added


def _has_one_column(name, a, b):  # a, b: dicts of fields, each a tensor or a list
    """Whether the field `name` of two batches is [rows, 1]: one number for each answer, not for each token.

    With vLLM, TRL keeps such a field (the ratio of a whole answer's probabilities). It must not be padded."""
    # A list, a tensor [rows], or a field of prompts, whose columns say nothing about answers.
    if not torch.is_tensor(a[name]) or a[name].dim() < 2 or name.startswith("prompt"):
        return False
    # Only a batch with answers of several tokens can tell: in others every field has one column.
    for batch in (a, b):
        _, C = _widths(batch)  # tokens to which the answers are padded
        if batch[name].shape[1] == 1 and C > 1:
            return True
    return False


def _widths(batch):
    "Lengths in tokens to which a batch's prompts and its answers are padded: (P, C)"
    return batch["prompt_ids"].shape[1], batch["completion_ids"].shape[1]


def _padded(name, batch, P, C):
    """The field `name` of a batch, padded with zeros to prompts of `P` and answers of `C` tokens.

    Prompts are padded on the left, answers on the right, as TRL does. Their masks get zeros there, too, so
    nothing is learned from padding. A field that is no tensor [rows, tokens], such as the lists of pictures,
    is returned unchanged."""
    value = batch[name]
    if not torch.is_tensor(value) or value.dim() < 2:
        return value
    own_P, own_C = _widths(batch)
    left, right = P - own_P, C - own_C  # how many zeros
    if name.startswith("prompt"):  # prompt_ids, prompt_mask
        return torch.nn.functional.pad(value, (left, 0))
    is_prompt_and_answer = value.shape[1] == own_P + own_C  # such as token types; else of answers alone
    return torch.nn.functional.pad(value, (left if is_prompt_and_answer else 0, right))
