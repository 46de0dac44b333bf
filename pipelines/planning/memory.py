"""GPU memory of each role, by part: counted weights and activations, and what training adds to them."""

from __future__ import annotations

from dataclasses import dataclass

from conf import Settings
from conf.rules import DTYPE_BYTES
from pipelines.planning.calibration import Calibration
from pipelines.planning.durations import chunk_images, chunk_rows, policy_work, score_work
from pipelines.planning.fleet import Machine, machines
from pipelines.planning.gpus import GIB, GpuType
from pipelines.planning.other_rewards import weights_gib
from pipelines.planning.policy_work import PolicyWork


@dataclass(frozen=True)
class MemoryPart:
    """What one thing takes."""

    name: str
    gib: float


@dataclass(frozen=True)
class GpuMemory:
    """The memory of one GPU with certain roles."""

    roles: tuple[str, ...]
    count: int
    """GPUs with these roles."""
    parts: tuple[MemoryPart, ...]
    usable_gib: float

    @property
    def gib(self) -> float:
        """All parts."""
        return sum(part.gib for part in self.parts)

    @property
    def excess_gib(self) -> float:
        """By how much it does not fit; 0 if it fits."""
        return max(self.gib - self.usable_gib, 0.0)


def gpu_memory(settings: Settings, gpu: GpuType, calibration: Calibration | None = None) -> list[GpuMemory]:
    """The memory of each kind of GPU of a run: those with equal roles are one entry.

    Activations are those of measured peaks, if there are any.
    """
    kinds: dict[tuple[str, ...], list[Machine]] = {}
    for machine in machines(settings):
        kinds.setdefault(machine.roles, []).append(machine)
    return [
        GpuMemory(roles, len(members), tuple(_parts(settings, members[0], calibration)), gpu.usable_gib)
        for roles, members in kinds.items()
    ]


def _parts(settings: Settings, machine: Machine, calibration: Calibration | None) -> list[MemoryPart]:
    """The processes of a GPU share nothing but the base of a colocated worker, which learns and samples."""
    flux, policy = settings.flux, settings.policy
    work, size = policy_work(flux), DTYPE_BYTES[flux.dtype]
    learns = machine.rank is not None
    both = learns and machine.samples and policy.placement == "colocated"
    bases = 1 if both else int(learns) + int(machine.samples)
    parts = [MemoryPart("transformer", bases * size * work.transformer_parameters / GIB)] if bases else []
    if machine.samples:
        encoders = 0.0 if flux.text_encoders_on_cpu else work.encoder_parameters
        parts.append(MemoryPart("text encoders and VAE", size * (encoders + work.vae_parameters) / GIB))
    if learns:
        parts.append(MemoryPart("LoRA, its gradient, AdamW, moving average", _lora_state(settings, work) / GIB))
    elif machine.samples:
        parts.append(MemoryPart("LoRA", 4 * work.lora_parameters / GIB))
    sampling = _sampling_bytes(settings, work)
    learning = chunk_rows(policy) * work.activation_bytes(flux.checkpoint_every)
    if calibration and calibration.learning_gib:
        weights = size * (work.transformer_parameters + work.vae_parameters)  # what the benchmark has loaded
        lora, rows = 4 * work.lora_parameters, calibration.batch
        sampling = (calibration.sampling_gib * GIB - weights - lora) * chunk_images(policy) / rows
        learning = (calibration.learning_gib * GIB - weights - 5 * lora) * chunk_rows(policy) / rows
    if both:
        parts.append(MemoryPart("activations, of learning or sampling", max(sampling, learning) / GIB))
    else:
        if learns:
            parts.append(MemoryPart(f"activations of {chunk_rows(policy)} rows", learning / GIB))
        if machine.samples:
            parts.append(MemoryPart(f"sampling {chunk_images(policy)} images", sampling / GIB))
    if machine.scores:
        score = score_work(settings.spatialscore)
        weights = DTYPE_BYTES[settings.spatialscore.dtype] * score.parameters + 4 * score.lora_parameters
        parts.append(MemoryPart("SpatialScore", weights / GIB))
        rows = min(settings.serving.batch_images, policy.group_size)
        parts.append(MemoryPart(f"scoring {rows} images", rows * score.scoring_bytes / GIB))
    weights_of = {name: weights_gib(name, settings) for name in machine.rewards}
    return parts + [MemoryPart(f"weights of {name}", weights_of[name]) for name in machine.rewards if weights_of[name]]


def _lora_state(settings: Settings, work: PolicyWork) -> float:
    """Bytes in float32.

    Each rank has weights, gradients, moving average, and with DeepSpeed a copy of the gradients. AdamW's moments, and
    DeepSpeed's master weights, are divided over the ranks.
    """
    learner, each = settings.policy.learner, 4 * work.lora_parameters
    sharded = learner.engine == "deepspeed"
    return each * (4 + 3 / learner.ranks if sharded else 5)


def _sampling_bytes(settings: Settings, work: PolicyWork) -> float:
    """Denoising a chunk, or decoding it, whatever is larger. Tiles are counted as whole images."""
    images = chunk_images(settings.policy)
    decoded = images if settings.flux.vae_decoding == "batch" else 1
    return max(images * work.forward_bytes, decoded * work.decoding_bytes)
