"""Every method of a library that we override was read by somebody. When its source changes, that somebody has to look again."""
from importlib import metadata

import pytest
from support import overrides


def test_each_method_that_we_override_is_still_the_one_that_was_read():
    read, found = overrides.read(), overrides.overridden()
    unread, gone = sorted(set(found) - set(read)), sorted(set(read) - set(found))
    advice = "read it, then run tools/overrides.py"
    assert not unread, f"overridden, and in no list of what was read: {unread}: {advice}"
    assert not gone, f"read once, and overridden no more (or gone from the library): {gone}: {advice}"
    changed = [f"{name} ({row['release']} → {metadata.version(name.partition('.')[0])}, overridden by {row['by']})"
               for name, row in read.items() if overrides.source_hash(name) != row["hash"]]
    assert not changed, f"look again, the library's source has changed: {'; '.join(changed)}. If ours still fits, {advice}"


def test_a_change_in_the_library_is_noticed(monkeypatch):
    "One line more in a method, and a method that has gone; comments and docstrings are no change"
    from transformers import Trainer
    name = "transformers.trainer.Trainer._save_checkpoint"
    before = overrides.source_hash(name)
    assert before == overrides.read()[name]["hash"]

    def same(self, model, trial):
        "Another docstring"
        return 1 # a comment

    def twin(self, model, trial): return 1

    def longer(self, model, trial):
        trial = None
        return 1
    # equal bodies under one name: what differs is the docstring, the comment and the layout
    same.__name__ = twin.__name__
    trees = [overrides.parsed(f) for f in (same, twin, longer)]
    for tree in trees: tree.name = "f"
    dumped = [overrides.ast.dump(tree) for tree in trees]
    assert dumped[0] == dumped[1] != dumped[2]
    monkeypatch.setattr(Trainer, "_save_checkpoint", longer)
    assert overrides.source_hash(name) != before
    monkeypatch.delattr(Trainer, "_save_checkpoint")
    assert overrides.source_hash(name) is None
    with pytest.raises(AssertionError, match="look again|overridden no more"):
        test_each_method_that_we_override_is_still_the_one_that_was_read()


def test_empty_hooks_and_made_up_methods_are_not_listed():
    from transformers import TrainerCallback
    assert not overrides.does_something(TrainerCallback.on_log)
    assert not any("TrainerCallback.on_" in name for name in overrides.read())
    assert {"trl.trainer.grpo_trainer.GRPOTrainer._compute_loss", "transformers.trainer.Trainer._save_checkpoint"} <= set(overrides.read())
