"""A platform for verl's own plugin registry: this machine's CPU, gloo in place of NCCL. verl 0.9.1 has cuda, npu and rocm;
others may be added from outside, by VERL_USE_EXTERNAL_MODULES=verl_on_cpu, VERL_PLATFORM=cpu and VERL_ENGINE_DEVICE=cuda
(the engines are registered for cuda and npu; what they run is plain torch). Nothing of verl is changed. Of torch one check is:
its FSDP 1 refuses to send weights from rank 0 to the others where they lie on a CPU, as NCCL would; gloo sends them."""
import types
from contextlib import contextmanager

import torch
from torch.distributed.fsdp import _init_utils
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry


class Device(types.ModuleType):
    "torch.cpu, and for what torch.cuda has beyond it (caches, memory in use) a function that does nothing and says 0"
    def __getattr__(self, name):
        if name.startswith("__"): raise AttributeError(name)
        return getattr(torch.cpu, name, nothing)
    def get_device_name(self, index=0): return "CPU"
    def mem_get_info(self, device=None): return 0, 0


def nothing(*args, **kwargs): return 0


_init_utils._check_module_states_for_sync_module_states = nothing # read in torch 2.11


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    "What verl asks of an accelerator, answered by the CPU"
    device_name, vendor_name, device_module = "cpu", "cpu", Device("cpu")
    def is_available(self): return True
    def current_device(self): return torch.device("cpu")
    def device_count(self): return 1
    def set_device(self, device_index): pass
    def synchronize(self, device_index=None): pass
    def manual_seed(self, seed): torch.manual_seed(seed)
    def manual_seed_all(self, seed): torch.manual_seed(seed)
    def set_allocator_settings(self, settings): pass
    def empty_cache(self): pass
    def get_device_capability(self, device_index=0): return None, None
    def communication_backend_name(self): return "gloo"
    def visible_devices_envvar(self): return "CUDA_VISIBLE_DEVICES"
    def ray_resource_name(self): return "GPU" # ray is told that it has some
    def ray_noset_envvars(self): return []
    def is_ipc_supported(self): return False
    def profiler_start(self): pass
    def profiler_stop(self): pass
    def cudart(self): return None

    @contextmanager
    def nvtx_range(self, msg): yield
