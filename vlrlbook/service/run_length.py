"""How many rows of an upload a run trains on, known before it starts: chapter 05's split by picture, counted.

`vlrlbook.data` makes the split itself, and needs pandas and `datasets` for it, which this process does not
load. A test compares the two. Written by hand, not exported from a notebook."""
import random

__all__ = ["held_out_share", "rows_to_train_on"]

held_out_share = 0.2  # of the pictures; chapter 05 measures on their rows


def rows_to_train_on(
    pictures: list,  # for each row a text that is equal where the pictures are
    share: float,  # of the different pictures that are held out
    seed: int,  # of the run: it decides which are
) -> int:  # at least 1, unless there is one picture only
    "Rows on the training side, as `vlrlbook.data.split_by_picture` splits one picture a row"
    different = sorted(set(pictures))
    if len(different) < 2:
        return 0  # one picture cannot be on both sides
    # The same generator, seed and order as there: it must be the same pictures, for each may have many rows.
    random.Random(seed).shuffle(different)
    wanted = round(share * len(different))
    most = len(different) - 1  # one at least is left to train on
    count = min(most, max(1, wanted))
    held_out = set(different[:count])
    return sum(picture not in held_out for picture in pictures)
