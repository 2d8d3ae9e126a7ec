"""The same rows and the same reward on EasyR1 or verl: exported, looked through, launched, brought back.

Written by hand: it hands on what the chapter's rooms hold, so that `from vlrlbook.easyr1 import …` need not
know which room a name lives in. The rooms are exported from the pages of chapter 09, in this order; each
imports only rooms before it:

    quick_start_settings  what the quick start can be told
    config                every key of EasyR1 and verl, checked
    export                the directory that an engine runs
    inspection            the dry run of such a directory
    shards                the files that a run's processes leave, read tensor by tensor
    merge                 one model directory made of them
    pipeline              the quick start, stage by stage

No room bears a name that stands here: a submodule becomes an attribute of its package, and one of the two
would hide the other."""
from .quick_start_settings import QuickStartSettings, stages, versions
from .config import (
    EngineSettings, Key, engine_settings, house_values, house_verl, key_table, parse_overrides,
    read_engine_yaml, short_names)
from .export import (
    ask_reward_file, easyr1_messages, export_easyr1, export_keys, export_verl, reward_file, verl_overrides)
from .inspection import DryRun, check_row, dry_run, easyr1_size, memory_gb, parameter_count
from .shards import (
    Piece, ShardError, Shards, Stored, assemble, cut_words, draw_shards, read_contents, read_shards,
    shard_box, shard_model)
from .merge import (
    Lora, Source, Wanted, adapter_sources, fit_keys, merge_shards, model_sources, part_lora, wanted_tensors,
    write_safetensors, write_weights)
from .pipeline import newest_step, quick_start

# These live in other rooms of the package. They could be imported from here when this wing was one module,
# and whoever does so must not be stopped.
from ..core import Table, blue, book_file, figure, green, orange, purple, run_facts
from ..data import DataError, load_vqa, split_by_picture, to_dataset, vqa_template
from ..folders import damage, new_folder, remove_leftovers, write_json, write_whole
from ..rewards import load_reward, normalise_answer
from ..settings import Settings, SettingsError, as_type, nearest, read_settings

__all__ = [
    "versions", "house_values", "house_verl", "stages", "easyr1_messages", "reward_file",
    "ask_reward_file", "Key", "key_table", "short_names", "EngineSettings", "engine_settings",
    "read_engine_yaml", "parse_overrides", "export_easyr1", "export_keys", "export_verl",
    "verl_overrides", "easyr1_size", "check_row", "DryRun", "dry_run", "memory_gb", "parameter_count",
    "shard_model", "shard_box", "draw_shards", "ShardError", "Stored", "read_contents", "Piece", "Shards",
    "cut_words", "read_shards", "assemble", "Wanted", "wanted_tensors", "fit_keys", "Lora", "part_lora",
    "Source", "write_safetensors", "write_weights", "model_sources", "adapter_sources", "merge_shards",
    "QuickStartSettings", "quick_start", "newest_step"]
