"""Shards of real processes read back, and files that are broken, odd or hostile"""
import pickle
import shutil
import sys

import pytest
import torch
from shard_cases import actor, home, twin
from vlrlbook import easyr1 as e
from vlrlbook.core import book_file


def layouts(folder, world_size):
    "State dict of DTensors cut in many ways, by real processes; the whole tensors come back"
    import torch.multiprocessing as mp
    folder.mkdir(parents=True)
    processes = [mp.get_context("fork").Process(target=save_layouts, args=(folder, rank, world_size)) for rank in range(world_size)]
    for p in processes: p.start()
    for p in processes: p.join()
    assert not any(p.exitcode for p in processes)
    return odd_tensors()


def odd_tensors():
    torch.manual_seed(0)
    shapes = dict(rows=(5, 3), columns=(2, 7), deep=(2, 3, 5), short=(1, 4), long=(525, 4), vector=(3,), none=(0, 4))
    found = {name: torch.randn(shape) for name, shape in shapes.items()} | dict(number=torch.tensor(1.5),
        whole=torch.arange(6), half=torch.randn(6, 2).bfloat16(), turned=torch.randn(4, 6).t())
    return found | dict(view=torch.randn(20, 4)[3:9])


def save_layouts(folder, rank, world_size):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/.meeting", rank=rank, world_size=world_size)
    flat, square = init_device_mesh("cpu", (world_size,), mesh_dim_names=("fsdp",)), init_device_mesh("cpu",
        (2, world_size // 2), mesh_dim_names=("fsdp", "tp"))
    copies, state = init_device_mesh("cpu", (2, world_size // 2), mesh_dim_names=("ddp", "fsdp")), {}
    for name, t in odd_tensors().items():
        if name in ("number", "whole"): state[name] = distribute_tensor(t, flat, [Replicate()])
        else:
            for dim in range(t.dim()): state[f"{name}.{dim}"] = distribute_tensor(t, flat, [Shard(dim)])
            state[f"{name}.copies"] = distribute_tensor(t, copies, [Replicate(), Shard(t.dim() - 1)])
            if t.dim() > 1:
                state[f"{name}.both"] = distribute_tensor(t, square, [Shard(0), Shard(1)])
                state[f"{name}.twice"] = distribute_tensor(t, square, [Shard(1), Shard(1)])
    torch.save(state, folder / f"model_world_size_{world_size}_rank_{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_shard_on_any_dimension_uneven_empty_and_nested(home, world_size):
    whole = layouts(home / f"layouts-{world_size}", world_size)
    shards = e.read_shards(home / f"layouts-{world_size}")
    assert len(shards.pieces) > 40
    for key, pieces in shards.pieces.items():
        right = whole[key.split(".")[0]]
        assert torch.equal(e.assemble(pieces, shards.shape(key), key), right), key
    assert any(0 in p.stored.shape for pieces in shards.pieces.values() for p in pieces)


def test_shards_of_an_older_torch(tmp_path):
    "Written by torch 2.6, whose device mesh today's torch cannot read"
    for rank in (0, 1): shutil.copy(book_file(f"logs/09_torch26_rank_{rank}.pt"), tmp_path / f"model_world_size_2_rank_{rank}.pt")
    whole, shards = torch.load(book_file("logs/09_torch26_whole.pt")), e.read_shards(tmp_path)
    for key, right in whole.items(): assert torch.equal(e.assemble(shards.pieces[key], tuple(right.shape), key), right)
    assert {p[0].names for p in shards.pieces.values()} == {("fsdp",), ()}


def test_storages_views_and_types(tmp_path):
    base = torch.randn(10, 6)
    held = dict(a=base, view=base[2:5], turned=base.t(), step=base[::3, 1], empty=base[:0], number=torch.tensor(3),
                parameter=torch.nn.Parameter(base.half()), flag=torch.tensor([True, False]),
                byte=torch.arange(5, dtype=torch.uint8), expanded=torch.ones(1, 4).expand(3, 4))
    torch.save(held, tmp_path / "x.pt")
    found = e.read_contents(tmp_path / "x.pt")
    for key, right in held.items():
        assert torch.equal(found[key].read(), right) and found[key].read().dtype == right.dtype, key
        assert torch.equal(found[key].read(torch.empty_like(right, memory_format=torch.contiguous_format)), right), key


class Runs:
    def __init__(self, path): self.path = path
    def __reduce__(self): return open, (self.path, "w")


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_that_a_file_names_is_run(tmp_path, protocol):
    torch.save({"w": Runs(str(tmp_path / "made"))}, tmp_path / "x.pt", pickle_protocol=protocol)
    with pytest.raises(e.ShardError, match="open, which no tensor needs; nothing of it was run"): e.read_contents(tmp_path / "x.pt")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all" * 100, pickle.dumps({"a": 1})])
def test_not_an_archive(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(e.ShardError, match="x.pt: cut off, damaged, or not written by torch.save"): e.read_contents(tmp_path / "x.pt")


def test_any_cut_of_a_file_is_noticed(actor, tmp_path):
    whole = (actor / "model_world_size_4_rank_0.pt").read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9, 0.999):
        (tmp_path / "x.pt").write_bytes(whole[:int(len(whole) * share)])
        with pytest.raises(e.ShardError, match="x.pt"): e.read_contents(tmp_path / "x.pt")


def test_one_changed_byte_is_noticed_or_does_not_matter(tmp_path):
    "Bytes of a small shard changed in turn: an error that names the file, or the same numbers"
    whole, path = book_file("logs/09_torch26_rank_0.pt").read_bytes(), tmp_path / "x.pt"
    numbers = lambda: {k: (v if isinstance(v, e.Stored) else v._local_tensor).read() for k, v in e.read_contents(path).items()}
    path.write_bytes(whole)
    right, noticed = numbers(), 0
    for i in range(0, len(whole), 5):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1:])
        try: found = numbers()
        except e.ShardError as error: noticed += "x.pt" in str(error)
        else: assert found.keys() == right.keys() and all(torch.equal(found[k], right[k]) for k in right), i
    assert noticed > len(whole) / 15


def test_a_shard_without_checksums(tmp_path):
    held = {"w": torch.randn(5, 3)}
    torch.serialization.set_crc32_options(False)
    try: torch.save(held, tmp_path / "x.pt")
    finally: torch.serialization.set_crc32_options(True)
    assert torch.equal(e.read_contents(tmp_path / "x.pt")["w"].read(), held["w"])


@pytest.mark.parametrize("steps, last", [((20, 100), "global_step_100/actor"),
                                         ((9, 10), "global_step_10/actor"), ((5,), "global_step_5/actor")])
def test_the_hint_names_the_last_step(tmp_path, steps, last):
    for step in steps:
        (tmp_path / f"global_step_{step}/actor").mkdir(parents=True)
        (tmp_path / f"global_step_{step}/actor/model_world_size_2_rank_0.pt").touch()
    with pytest.raises(FileNotFoundError, match=f"did you mean '{last}' in it"): e.read_shards(tmp_path)


def test_not_a_state_dict(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "x.pt")
    with pytest.raises(e.ShardError, match="holds a list, not a state dict"): e.read_contents(tmp_path / "x.pt")


def test_sharded_tensor_and_others_are_named(tmp_path):
    for value, why in ((3, "is a int, not a tensor"), ({"a": 1}, "is a dict, not a tensor")):
        torch.save({"w": value}, tmp_path / "model_world_size_1_rank_0.pt")
        with pytest.raises(e.ShardError, match=why): e.read_shards(tmp_path)


def test_old_sharded_tensor_is_refused(tmp_path):
    "FSDP 1 without a device mesh"
    import torch.multiprocessing as mp
    p = mp.get_context("fork").Process(target=save_sharded_tensor, args=(tmp_path,))
    p.start()
    p.join()
    assert p.exitcode == 0
    with pytest.raises(e.ShardError, match="w is a ShardedTensor"): e.read_shards(tmp_path)


def save_sharded_tensor(folder):
    import torch.distributed as dist
    from torch.distributed._shard import sharded_tensor
    from torch.distributed._shard.sharding_spec import ChunkShardingSpec
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/.meeting", rank=0, world_size=1)
    torch.save({"w": sharded_tensor.rand(ChunkShardingSpec(dim=0, placements=["rank:0/cpu"]), 4, 2)},
               folder / "model_world_size_1_rank_0.pt")
    dist.destroy_process_group()


def test_import_needs_no_torch():
    import subprocess
    code = "import sys, vlrlbook.easyr1; print([m for m in ('torch', 'trl', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
