"""A plugin for vLLM's own group `vllm.general_plugins`, called once in each of its processes.

On a CPU vLLM packs the weights of its linear layers when they are loaded and deletes the plain ones, so that new weights from
a trainer find no place. Here they stay as they are and torch multiplies them. Read in vLLM 0.24.0; if
`dispatch_cpu_unquantized_gemm` moves, the second step of a run samples with the first step's weights or stops."""
import torch


def keep(layer, remove_weight=False): layer.cpu_linear = torch.nn.functional.linear


def register():
    from vllm.model_executor.layers import utils
    utils.dispatch_cpu_unquantized_gemm = keep
