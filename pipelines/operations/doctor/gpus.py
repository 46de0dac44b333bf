"""Checks CUDA, and whether a GPU has enough memory for the roles that the preset places on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from actors.rewards.scorers import SCORERS
from conf import Settings
from conf.rewards import KINDS_WITH_A_SECTION
from conf.rules import DTYPE_BYTES
from pipelines.operations.doctor.driver import driver_problem, installed_driver
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.node_tasks import NODE_TIMEOUT, live_nodes, node_name, start_on

GB = 1e9
LORA_GB = 1.8
"""GB of a rank-32 LoRA on FLUX.1-dev: float32 weight, gradient, two AdamW moments, EMA."""


@dataclass(frozen=True)
class ModelSize:
    """Billions of parameters of a model's parts."""

    transformer: float
    encoders: float = 0.0
    vae: float = 0.0


KNOWN_MODELS = {
    "black-forest-labs/FLUX.1-dev": ModelSize(transformer=11.9, encoders=4.88, vae=0.084),
    "Qwen/Qwen-Image": ModelSize(transformer=20.45, encoders=8.3, vae=0.127),
    "stabilityai/stable-diffusion-3.5-medium": ModelSize(transformer=2.47, encoders=5.58, vae=0.084),
    "stabilityai/stable-diffusion-3.5-large": ModelSize(transformer=8.15, encoders=5.58, vae=0.084),
    "Tongyi-MAI/Z-Image": ModelSize(transformer=6.15, encoders=4.02, vae=0.084),
    "black-forest-labs/FLUX.2-klein-base-4B": ModelSize(transformer=3.88, encoders=4.02, vae=0.084),
    "black-forest-labs/FLUX.2-klein-base-9B": ModelSize(transformer=9.08, encoders=8.19, vae=0.084),
    "Qwen/Qwen2.5-VL-3B-Instruct": ModelSize(transformer=3.75),
    "Qwen/Qwen2.5-VL-7B-Instruct": ModelSize(transformer=8.3),
    "google/owlv2-base-patch16-ensemble": ModelSize(transformer=0.155),
}
"""Hub id -> size, as in docs/cluster.md. Computed from the models' configurations, not measured."""


@dataclass(frozen=True)
class GpuRole:
    """What one process of a role keeps on a GPU, and which fraction of a GPU it reserves."""

    name: str
    gpus: float
    weights_gb: float | None  # None if the model is not one of KNOWN_MODELS


def gpu_roles(settings: Settings) -> tuple[GpuRole, ...]:
    """The roles of stage 3 that reserve GPUs, with the size of their weights. Activations come on top."""
    flux, score, policy, detector = settings.flux, settings.spatialscore, settings.policy, settings.detector
    base, base_bytes = KNOWN_MODELS.get(flux.model), DTYPE_BYTES[flux.dtype]
    backbone, boxes = KNOWN_MODELS.get(score.model), KNOWN_MODELS.get(detector.model)
    rollout_gb = learner_gb = None
    if base:
        encoders = 0.0 if flux.text_encoders_on_cpu else base.encoders
        rollout_gb = (base.transformer + encoders + base.vae) * base_bytes + 0.2 * LORA_GB  # the weights alone
        learner_gb = base.transformer * base_bytes + LORA_GB
        if policy.placement == "colocated":
            learner_gb += (encoders + base.vae) * base_bytes
    reward_gb = backbone and backbone.transformer * DTYPE_BYTES[score.dtype]
    detector_gb = boxes and boxes.transformer * DTYPE_BYTES[detector.dtype]
    roles = (
        GpuRole("rollout actor", policy.rollout.gpus if policy.rollout.max_actors else 0.0, rollout_gb),
        GpuRole(
            "policy worker" if policy.placement == "colocated" else "learner rank", policy.learner.gpus, learner_gb
        ),
        GpuRole("reward replica", settings.serving.gpus, reward_gb),
        GpuRole("detector replica", detector.gpus if settings.uses_reward("detector") else 0.0, detector_gb),
    )
    return tuple(role for role in (*roles, *_reward_roles(settings)) if role.gpus)


def _reward_roles(settings: Settings) -> Iterator[GpuRole]:
    """The replicas of published reward models (their weights in float32), of your own code and of services."""
    for name, term in settings.used_rewards().items():
        kind = term.kind_of(name)
        if kind not in KINDS_WITH_A_SECTION:
            known = kind in SCORERS and not term.model
            yield GpuRole(
                f"replica of {name}", term.gpus, SCORERS[kind].billions * DTYPE_BYTES["float32"] if known else None
            )


def peak_gb(settings: Settings) -> float | None:
    """GB of weights on the fullest GPU; roles that reserve fractions share one. None if a size is unknown."""
    roles = gpu_roles(settings)
    if any(role.weights_gb is None for role in roles):
        return None
    shared = sum(role.weights_gb or 0.0 for role in roles if role.gpus < 1)
    return max([shared, *(role.weights_gb or 0.0 for role in roles if role.gpus >= 1)])


@dataclass(frozen=True)
class Gpu:
    """One device."""

    name: str
    memory_gb: float


@dataclass(frozen=True)
class GpuInfo:
    """What torch sees on one machine."""

    built_for: str  # version of CUDA (or ROCm) that torch was built for; "": none
    gpus: Sequence[Gpu]
    driver: str = ""  # version of NVIDIA's driver; "": none


def probe_gpus() -> GpuInfo:
    """Asks torch in this process for its GPUs."""
    import torch

    properties = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    gpus = [Gpu(each.name, each.total_memory / GB) for each in properties]
    return GpuInfo(torch.version.cuda or torch.version.hip or "", gpus, installed_driver())


def check_gpus(settings: Settings, probe: Callable[[], GpuInfo] = probe_gpus) -> Iterator[Finding]:
    """Checks this machine's GPUs if the preset reserves some on it. `check_node_gpus` does so on a cluster's nodes."""
    if not gpu_roles(settings):
        yield Finding(True, "this preset reserves no GPU")
    elif settings.ray_address == "local":
        yield from check_memory("this machine", probe(), settings)


def check_node_gpus(settings: Settings) -> Iterator[Finding]:
    """Checks the GPUs of every node of the connected Ray cluster, by a task that reserves 1 % of a GPU there."""
    import ray
    from ray.exceptions import GetTimeoutError

    if not gpu_roles(settings):
        return
    answers = [(node_name(node), start_on(node, probe_gpus, gpus=0.01)) for node in live_nodes(with_gpus=True)]
    for machine, answer in answers:
        try:
            yield from check_memory(machine, ray.get(answer, timeout=NODE_TIMEOUT), settings)
        except GetTimeoutError:
            ray.cancel(answer)
            yield Finding(True, f"{machine}: all GPUs are in use, so they were not checked")


def check_memory(machine: str, found: GpuInfo, settings: Settings) -> Iterator[Finding]:
    """Checks that a machine's GPUs can be used, and that each has enough memory for what the preset places on one."""
    if not found.built_for:
        yield Finding(False, f"{machine}: torch was built without CUDA", "install a CUDA build of torch there")
        return
    if problem := driver_problem(found.driver, found.built_for):
        fix = "install a newer driver there, or wheels of torch for the CUDA version of this one; see docs/cluster.md"
        yield Finding(False, f"{machine}: {problem}", fix)
        return
    if not found.gpus:
        fix = "run nvidia-smi there, and check the driver, the container runtime and CUDA_VISIBLE_DEVICES"
        yield Finding(False, f"{machine}: torch sees no GPU", fix)
        return
    needed = peak_gb(settings)
    for number, gpu in enumerate(found.gpus):
        message = f"{machine}, GPU {number}: {gpu.name}, {gpu.memory_gb:.0f} GB, CUDA {found.built_for}"
        if needed is None:
            yield Finding(True, f"{message}; the size of this preset's models is unknown")
            continue
        fix = "choose another preset, or larger GPUs; docs/cluster.md has a table of what each part needs"
        message += f"; needed: {needed:.0f} GB for weights, plus activations"
        yield Finding(gpu.memory_gb > needed, message, fix)
    if line := _prediction(settings, {gpu.name for gpu in found.gpus}):
        yield Finding(True, f"{machine}: {line}")


def _prediction(settings: Settings, names: set[str]) -> str:
    """What the planner predicts if all GPUs are of one type that it knows; else ""."""
    from pipelines.planning.gpus import recognize

    gpu = recognize(names.pop()) if len(names) == 1 else None
    if gpu is None:
        return ""
    from pipelines.policy.prediction import prediction  # imports the models' libraries

    return prediction(settings, gpu)
