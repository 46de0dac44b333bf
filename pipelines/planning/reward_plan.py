"""What stage 2 costs: training SpatialScore on the workers of the settings, for each known size of its backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from conf import Settings
from conf.rules import DTYPE_BYTES
from pipelines.planning.architectures import SCORES
from pipelines.planning.durations import ADAMW_BYTES, NETWORK_BYTES_S, score_work
from pipelines.planning.gpus import GIB, GpuType
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
    pass_pairs: int
    """Pairs that a worker computes at once."""
    fitting_pairs: int
    """The most pairs of a pass that fit the memory; 0 if not even one does."""
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
    work, passes, pairs = score_work(score), reward.passes(reward.workers), reward.pairs_of_a_pass(reward.workers)
    pair_rows = 4 if reward.both_prompts else 2  # each image under each prompt
    rows = reward.batch_size / reward.workers / passes * pair_rows
    lora_bytes = 4 * work.lora_parameters
    zero = reward.zero_stage if reward.engine == "deepspeed" else 0
    reductions = passes if zero > 1 else 1  # ZeRO-2 and 3 reduce the gradients of every pass
    exchange = (1 + reductions) * lora_bytes * (reward.workers - 1) / reward.workers / NETWORK_BYTES_S
    computed = passes * work.training.seconds(gpu, rows)
    step = computed + exchange + ADAMW_BYTES * work.lora_parameters / gpu.bandwidth_tb_s / 1e12
    steps = reward.epochs * PAIRS / reward.batch_size
    group, batch = settings.policy.group_size, min(settings.serving.batch_images, settings.policy.group_size)
    shards = reward.workers if zero else 1
    base = DTYPE_BYTES[score.dtype] * work.parameters / (shards if zero == 3 else 1)
    states = lora_bytes * (3 + 3 / shards)
    pair_bytes = pair_rows * (work.kept_bytes + work.backward_bytes)
    return RewardPlan(
        model=score.model,
        is_set=score.model == chosen,
        workers=reward.workers,
        pass_pairs=pairs,
        fitting_pairs=max(0, int((gpu.usable_gib * GIB - base - states) // pair_bytes)),
        score_group_seconds=work.scoring.seconds(gpu, batch) * group / batch,
        step_seconds=step,
        image_tokens=work.image_tokens,
        mfu=passes * work.useful.flops(rows).total / step / gpu.bf16_tflops / 1e12,
        hours=steps * step / 3600,
        memory=(
            MemoryPart("backbone", base / GIB),
            MemoryPart("LoRA, gradients, AdamW", states / GIB),
            MemoryPart("activations", pairs * pair_bytes / GIB),
        ),
        usable_gib=gpu.usable_gib,
    )
