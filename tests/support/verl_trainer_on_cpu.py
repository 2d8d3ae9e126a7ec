"""What verl's trainer needs besides the platform of verl_on_cpu.py, loaded after it by VERL_USE_EXTERNAL_MODULES in each process.
Read in verl 0.9.1 and torch 2.11."""
import torch
from verl.utils import distributed

given = distributed.initialize_global_process_group_ray


def one_backend(timeout_second=None, backend=None):
    """verl names a backend for the CPU and one for the accelerator; where both are the CPU torch refuses the pair:
    "Duplicate device type cpu" (verl/utils/distributed.py, torch/distributed/distributed_c10d.py)"""
    return given(timeout_second, backend or "gloo")


distributed.initialize_global_process_group_ray = one_backend
# FSDP 2 pins the reference model's weights for fast copies to a GPU; without one torch can pin nothing.
torch.Tensor.pin_memory = lambda self, device=None: self
