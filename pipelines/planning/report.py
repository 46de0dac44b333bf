"""The plan as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipelines.common.terminal import styled
from pipelines.planning.gpus import ATTENTION_EFFICIENCY, MATMUL_EFFICIENCY, TRAFFIC_EFFICIENCY
from pipelines.planning.memory import GpuMemory
from pipelines.planning.other_rewards import OtherReward
from pipelines.planning.plan import Option, Plan, settings_lines
from pipelines.planning.reward_plan import PAIRS, RewardPlan


def report(plan: Plan) -> str:
    """The whole report."""
    return "\n".join(_lines(plan))


def _lines(plan: Plan) -> Iterator[str]:
    gpu = plan.gpu
    yield styled(f"Plan of {plan.preset} on {plan.gpus} x {gpu.name}", "heading")
    if plan.calibration:
        yield f"Seconds of passes, decoding and scoring were measured on {plan.calibration}; the rest is predicted."
    else:
        yield (
            f"Predicted, not measured: {gpu.bf16_tflops:g} TFLOP/s (matrix products at {MATMUL_EFFICIENCY:.0%}, "
            f"attention at {ATTENTION_EFFICIENCY:.0%}), {gpu.bandwidth_tb_s:g} TB/s at {TRAFFIC_EFFICIENCY:.0%}."
        )
    yield ""
    yield from _table(
        (f"work of an iteration ({plan.images} images)", "PFLOP", "TB moved", "GPU-seconds"),
        [(part.name, f"{part.pflop:.1f}", f"{part.terabytes:.1f}", f"{part.gpu_seconds:.0f}") for part in plan.work],
    )
    yield ""
    head = ("division", "rollouts", "ranks", "rewards", "s/iteration", "busy", "sample", "score", "learn",
            "images/s/GPU", "days", "GPU-hours", "memory")  # fmt: skip
    yield from _table(head, [_option_row(option) for option in plan.options])
    best = plan.best
    yield ""
    yield from _table(
        (f"memory of {best.name}", "GPUs", f"GiB of {gpu.usable_gib:.0f}", "parts"),
        [_memory_row(memory) for memory in best.memory],
        last_left=True,
    )
    yield ""
    workers = plan.rewards[0].workers
    yield from _table(
        (
            f"SpatialScore (stage 2 on {workers} GPUs)",
            "score a group",
            "tokens/image",
            "pairs/pass",
            "fit",
            "s/step",
            "MFU",
            f"days for {PAIRS:,} pairs",
            "GiB",
            "parts",
        ),
        [_reward_row(reward) for reward in plan.rewards],
        last_left=True,
    )
    yield ""
    yield from _other_lines(plan)
    if best.overrides:
        yield f"Settings of {best.name}, to add to the command:"
        yield "  " + " ".join(settings_lines(best.overrides))
    else:
        yield "The settings are the fastest division that was found."


def _option_row(option: Option) -> Sequence[str]:
    fits = f"lacks {option.excess_gib:.1f} GiB" if option.excess_gib else "fits"
    return (
        option.name, str(option.rollouts), str(option.ranks), str(option.replicas),
        f"{option.iteration_seconds:.1f}", f"{option.busy:.0%}", f"{option.sample_busy:.0%}",
        f"{option.score_busy:.0%}", f"{option.learn_busy:.0%}", f"{option.images_per_second_per_gpu:.3f}",
        f"{option.days:.2f}", f"{option.gpu_hours:.0f}", fits,
    )  # fmt: skip


def _memory_row(memory: GpuMemory) -> Sequence[str]:
    parts = ", ".join(f"{part.name} {part.gib:.1f}" for part in memory.parts)
    return " + ".join(memory.roles), str(memory.count), f"{memory.gib:.1f}", parts


def _reward_row(reward: RewardPlan) -> Sequence[str]:
    parts = ", ".join(f"{part.name} {part.gib:.1f}" for part in reward.memory)
    name = f"{reward.model} (as set)" if reward.is_set else reward.model
    return (
        name, f"{reward.score_group_seconds:.2f} s", str(reward.image_tokens),
        str(reward.pass_pairs), str(reward.fitting_pairs),
        f"{reward.step_seconds:.2f}", f"{reward.mfu:.0%}", f"{reward.hours / 24:.2f}",
        f"{reward.gib:.1f}", parts + _shortage(reward),
    )  # fmt: skip


def _shortage(reward: RewardPlan) -> str:
    """By how much the memory of a worker is short, and the setting that is enough, if there is one."""
    if reward.gib <= reward.usable_gib:
        return ""
    fix = f": set reward.micro_batch_size={reward.fitting_pairs}" if reward.fitting_pairs else ""
    return f"; lacks {reward.gib - reward.usable_gib:.1f} GiB{fix}"


def _other_lines(plan: Plan) -> Iterator[str]:
    """The rewards beside SpatialScore, for whose replicas the divisions leave room."""
    if plan.others:
        yield from _table(
            (
                "other rewards",
                "use",
                "10^9 parameters",
                "replicas",
                "GPUs each",
                "GiB of weights",
                "s/image",
                "s/iteration",
            ),
            [_other_row(other) for other in plan.others],
        )
        gpus = sum(other.max_replicas * other.gpus for other in plan.others)
        yield (
            f"From published sizes, not from counted operations. They reserve up to {gpus:g} of the {plan.gpus} GPUs, "
            "for which the divisions leave room. s/iteration of a watched reward: of an evaluation."
        )
        yield from (line for other in plan.others for line in _other_advice(other, plan))
    if plan.uncounted:
        yield f"Their GPUs count, their time and memory are not known: the rewards {', '.join(plan.uncounted)}."
    if plan.others or plan.uncounted:
        yield ""


def _other_row(other: OtherReward) -> Sequence[str]:
    on_gpu = other.gpus > 0
    replicas = f"{other.min_replicas}" + (
        f" to {other.max_replicas}" if other.max_replicas > other.min_replicas else ""
    )
    return (
        other.name, "trains" if other.trains else "watched", f"{other.billions:.2f}", replicas,
        f"{other.gpus:g}" if on_gpu else "CPU", f"{other.weights_gib:.1f}",
        f"{other.image_seconds:.3f}" if on_gpu else "?", f"{other.iteration_seconds:.1f}" if on_gpu else "?",
    )  # fmt: skip


def _other_advice(other: OtherReward, plan: Plan) -> Iterator[str]:
    """What does not fit, or makes an iteration longer, and what to set."""
    section = "detector" if other.kind == "detector" else f"rewards.{other.name}"
    if other.gpus and other.weights_gib > other.share_gib:
        yield (
            f"{other.name}: its weights do not fit its share of a GPU, {other.share_gib:.1f} GiB: raise "
            f"{section}.gpus, unless the roles beside it leave the memory free"
        )
    if other.trains and other.iteration_seconds > plan.best.iteration_seconds:
        yield (
            f"{other.name}: slower than the rest of an iteration ({plan.best.iteration_seconds:.1f} s): raise "
            f"{section}.max_replicas"
        )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], last_left: bool = False) -> Iterator[str]:
    """Columns as wide as their longest cell; the first one, and maybe the last one, to the left."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for number, row in enumerate((head, *rows)):
        cells = [
            cell.ljust(width) if column == 0 or (last_left and column == len(head) - 1) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        yield styled(line, "heading") if number == 0 else line
