"""What stage 2 costs: training SpatialScore on the workers of the settings, for each known size of its backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from conf import Settings
from pipelines.planning.architectures import SCORES
from pipelines.planning.durations import ADAMW_BYTES, NETWORK_BYTES_S, score_work
from pipelines.planning.gpus import BYTES, GIB, GpuType
from pipelines.planning.memory import MemoryPart

PAIRS = 80_000
"""Pairs that are trained on: the paper's number, whatever stage 1 of the settings makes first."""


@dataclass(frozen=True)
class RewardPlan:
    """Training and serving SpatialScore with one backbone on one type of GPU."""

    model: str
    is_set: bool
    """Whether it is the backbone of the settings."""
    workers: int
    score_group_seconds: float
    """A group of stage 3 on one GPU."""
    step_seconds: float
    """An optimizer step. Reading and decoding images is not counted: it happens meanwhile."""
    image_tokens: int
    """Of an image, in the language model."""
    mfu: float
    """Useful operations of a step as a share of the data sheet's peak; recomputed activations are not useful."""
    hours: float
    """All epochs over PAIRS pairs."""
    memory: tuple[MemoryPart, ...]
    """Of one worker in training."""
    usable_gib: float

    @property
    def gib(self) -> float:
        """Memory of one worker."""
        return sum(part.gib for part in self.memory)


def reward_plans(settings: Settings, gpu: GpuType) -> Iterator[RewardPlan]:
    """The backbone of the settings first, then the other known ones."""
    chosen = settings.spatialscore.model
    for model in dict.fromkeys((chosen, *SCORES)):
        yield _reward_plan(replace(settings, spatialscore=replace(settings.spatialscore, model=model)), gpu, chosen)


def _reward_plan(settings: Settings, gpu: GpuType, chosen: str) -> RewardPlan:
    reward, score = settings.reward, settings.spatialscore
    work = score_work(score)
    rows = reward.batch_size / reward.workers * (4 if reward.both_prompts else 2)  # each image under each prompt
    lora_bytes = 4 * work.lora_parameters
    exchange = 2 * lora_bytes * (reward.workers - 1) / reward.workers / NETWORK_BYTES_S
    step = work.training.seconds(gpu, rows) + exchange + ADAMW_BYTES * work.lora_parameters / gpu.bandwidth_tb_s / 1e12
    steps = reward.epochs * PAIRS / reward.batch_size
    group, batch = settings.policy.group_size, min(settings.serving.batch_images, settings.policy.group_size)
    shards = reward.workers if reward.engine == "deepspeed" else 1
    base = BYTES[score.dtype] * work.parameters / (shards if reward.zero_stage == 3 else 1)
    return RewardPlan(
        model=score.model,
        is_set=score.model == chosen,
        workers=reward.workers,
        score_group_seconds=work.scoring.seconds(gpu, batch) * group / batch,
        step_seconds=step,
        image_tokens=work.image_tokens,
        mfu=work.useful.flops(rows).total / step / gpu.bf16_tflops / 1e12,
        hours=steps * step / 3600,
        memory=(
            MemoryPart("backbone", base / GIB),
            MemoryPart("LoRA, gradients, AdamW", lora_bytes * (3 + 3 / shards) / GIB),
            MemoryPart("activations", rows * (work.kept_bytes + work.backward_bytes) / GIB),
        ),
        usable_gib=gpu.usable_gib,
    )
