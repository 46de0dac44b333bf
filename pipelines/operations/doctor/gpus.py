"""CUDA, and whether the GPUs of this machine hold what the preset places on one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from conf import Settings
from pipelines.operations.doctor.finding import Finding

GB = 1e9
SECONDS = 60.0  # that a node has to answer
LORA = 1.8  # GB: float32 weight, gradient, two AdamW moments, EMA of a rank-32 LoRA on FLUX.1-dev


@dataclass(frozen=True)
class Weights:
    """Billions of parameters of a model's parts."""

    transformer: float
    encoders: float = 0.0
    vae: float = 0.0


KNOWN = {
    "black-forest-labs/FLUX.1-dev": Weights(transformer=11.9, encoders=4.88, vae=0.084),
    "Qwen/Qwen-Image": Weights(transformer=20.45, encoders=8.3, vae=0.127),
    "Qwen/Qwen2.5-VL-7B-Instruct": Weights(transformer=8.3),
    "google/owlv2-base-patch16-ensemble": Weights(transformer=0.155),
}
"""As docs/cluster.md has them. Worked out, not measured."""
BYTES = {"bfloat16": 2, "float32": 4}


@dataclass(frozen=True)
class Role:
    """What one process of a role keeps on a GPU, and which share of a GPU it reserves."""

    name: str
    gpus: float
    memory: float | None  # GB of weights; None where the model is not KNOWN


def roles(settings: Settings) -> tuple[Role, ...]:
    """The policy stage's roles that reserve GPUs. Activations come on top."""
    flux, score, policy = settings.flux, settings.spatialscore, settings.policy
    base, judge, detector = KNOWN.get(flux.model), KNOWN.get(score.model), KNOWN.get(settings.detector.model)
    encoders = 0.0 if flux.text_encoders_on_cpu else 1.0
    every = (
        Role("rollout actor", policy.rollout.gpus, base and (base.transformer + encoders * base.encoders + base.vae)
             * BYTES[flux.dtype] + 0.2 * LORA),
        Role("learner rank", policy.learner.gpus, base and base.transformer * BYTES[flux.dtype] + LORA),
        Role("reward replica", settings.serving.gpus, judge and judge.transformer * BYTES[score.dtype]),
        Role("detector replica", settings.detector.gpus if settings.rewards.detector else 0.0,
             detector and detector.transformer * BYTES[settings.detector.dtype]),
    )  # fmt: skip
    return tuple(role for role in every if role.gpus)


def peak_gb(settings: Settings) -> float | None:
    """GB of weights on the fullest GPU: roles that reserve shares of one lie together. None where that is unknown."""
    parts = roles(settings)
    if any(role.memory is None for role in parts):
        return None
    shared = sum(role.memory or 0.0 for role in parts if role.gpus < 1)
    return max([shared, *(role.memory or 0.0 for role in parts if role.gpus >= 1)])


@dataclass(frozen=True)
class GpuInfo:
    """What torch sees on a machine."""

    built: str  # version of CUDA (or ROCm) that torch was built for; "": none
    devices: list[tuple[str, float]]  # name and GB


def probe_gpus() -> GpuInfo:
    """Asks torch in this process."""
    import torch

    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    devices = [(each.name, each.total_memory / GB) for each in properties]
    return GpuInfo(torch.version.cuda or torch.version.hip or "", devices)


def check_gpus(settings: Settings) -> Iterator[Finding]:
    """This machine's GPUs, where the preset reserves some on it; a cluster's nodes are `check_node_gpus`'s."""
    if not roles(settings):
        yield Finding(True, "this preset reserves no GPU")
    elif settings.ray_address == "local":
        yield from check_memory("here", probe_gpus(), settings)


def check_node_gpus(settings: Settings) -> Iterator[Finding]:
    """The GPUs of the nodes of the cluster that Ray is connected to, each looked at by a task with a sliver of one."""
    import ray
    from ray.exceptions import GetTimeoutError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not roles(settings):
        return
    look = ray.remote(probe_gpus).options(num_cpus=0, num_gpus=0.01)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    seen = {
        f"on {node['NodeManagerAddress']}": look.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote()
        for node in nodes
    }
    for where, answer in seen.items():
        try:
            yield from check_memory(where, ray.get(answer, timeout=SECONDS), settings)
        except GetTimeoutError:
            ray.cancel(answer)
            yield Finding(True, f"GPUs {where} are all at work, and were not looked at")


def check_memory(where: str, seen: GpuInfo, settings: Settings) -> Iterator[Finding]:
    """Whether a machine's GPUs can be used, and hold what the preset places on one of them."""
    if not seen.built:
        yield Finding(False, f"torch {where} has no CUDA", "install a CUDA build of torch there")
        return
    if not seen.devices:
        mend = "look at nvidia-smi there: driver, container runtime, CUDA_VISIBLE_DEVICES"
        yield Finding(False, f"torch {where} sees no GPU", mend)
        return
    needed = peak_gb(settings)
    for number, (name, memory) in enumerate(seen.devices):
        told = f"GPU {number} {where}, {name}: CUDA {seen.built}, {memory:.0f} GB"
        if needed is None:
            yield Finding(True, f"{told}; what the models of this preset need is not known")
            continue
        mend = "choose another preset, or larger GPUs; docs/cluster.md has a table of what each part takes"
        yield Finding(memory > needed, f"{told}; the fullest holds {needed:.0f} GB of weights, and activations", mend)
