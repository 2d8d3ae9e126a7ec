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
    """Count the rows that a run will train on, as `vlrlbook.data.split_by_picture` will split them.

    Rows with the same picture stay together: all are trained on, or all are held out to measure with."""
    distinct = sorted(set(pictures))
    if len(distinct) < 2:
        return 0  # one picture cannot be both trained on and held out
    # The same generator, seed and order as in `split_by_picture`: each picture may have many rows, so the
    # count depends on which pictures are held out.
    random.Random(seed).shuffle(distinct)
    wanted = round(share * len(distinct))
    most = len(distinct) - 1  # at least one is left to train on
    held_out_count = min(most, max(1, wanted))
    held_out = set(distinct[:held_out_count])
    return sum(picture not in held_out for picture in pictures)
