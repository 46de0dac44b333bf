"""How busy the GPUs of a run are, and what its driver costs, at 8 to 1,024 GPUs: `python -m tests.bench.simulate`.

The driver is the real one; workers and time are simulated. docs/planning.md explains the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.policy.plan import SamplingPlan
from conf import Settings, load
from pipelines.planning.durations import RoleSeconds, chunk_rows, durations, kept_images
from pipelines.planning.gpus import GPU_TYPES
from tests.bench.simulation.run import Failures, Outcome, simulate
from tests.bench.simulation.workers import Seconds

SIZES = (8, 32, 128, 512, 1024)

Placement = Literal["colocated", "separate"]
PLACEMENTS: tuple[Placement, ...] = ("colocated", "separate")

JITTER = 0.02
"""Standard deviation of a call's duration, as a fraction of it."""
FAILURE_PERIOD_S = 3600.0
"""One GPU of the fleet fails in this time."""
ITERATIONS = 4
"""Iterations of a run. The first one is a warm-up; in the third one a GPU fails."""
START_REWARD_S = 40.0
"""Start of a replica of SpatialScore."""
RAY_CALL_S = 150e-6
"""CPU seconds of the driver for one call of a Ray actor and its answer. Assumed; tests.bench.ray_calls measures it."""
RAY_RETURN_S = 10e-6
"""The same for each object that a call returns."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    gpus: int
    placement: Placement


@dataclass(frozen=True)
class Result:
    """What a row says. Shares are of the GPU-seconds of all GPUs, after the first iteration."""

    prompts: int
    split: str
    iteration_seconds: float
    busy: float
    """The work of the published versions."""
    sample: float
    learn: float
    score: float
    driver_seconds: float
    """CPU seconds of the driver for an iteration, with Ray's."""
    lost_seconds: float
    """By how much a failure delays all later versions."""

    @property
    def driver_share(self) -> float:
        """Of an iteration."""
        return self.driver_seconds / self.iteration_seconds

    @property
    def busy_with_failures(self) -> float:
        """`busy` if one GPU fails every FAILURE_PERIOD_S seconds of undisturbed work."""
        return self.busy * FAILURE_PERIOD_S / (FAILURE_PERIOD_S + self.lost_seconds)


SEPARATE = {8: (3, 4, 1), 32: (14, 16, 2)}
"""GPUs -> rollout actors, ranks and replicas of the best separate placement, as `spatialt2i plan` finds it."""
COUNTS = ("policy.learner.ranks", "serving.min_replicas", "serving.max_replicas")
"""What grows with the number of GPUs in the colocated presets."""


def division(case: Case) -> dict[str, int | float]:
    """The GPUs of each role: those of the preset, or of SEPARATE. Above 32 GPUs: the division of 32, several times."""
    times, base = max(case.gpus // 32, 1), min(case.gpus, 32)
    if case.placement == "colocated":
        preset = load(preset_of(case), ["policy.prompts=prompts.jsonl"])
        counts = (preset.policy.learner.ranks, preset.serving.min_replicas, preset.serving.max_replicas)
        return {name: times * count for name, count in zip(COUNTS, counts, strict=True)}
    rollouts, ranks, replicas = (times * count for count in SEPARATE[base])
    return {
        **dict(zip(COUNTS, (ranks, replicas, replicas), strict=True)),
        "policy.rollout.max_actors": rollouts,
        "policy.rollout.min_actors": 1,
        "policy.learner.gpus": 1,
        "serving.gpus": 1,
    }


def preset_of(case: Case) -> str:
    """The preset that is made for this number of GPUs, or for 32."""
    return "flux_dev_8gpu" if case.gpus == 8 else "flux_dev"


def prompts_for(gpus: int) -> int:
    """Weak scaling: two groups for each rank of the colocated placement, and at least the 48 of the preset."""
    return max(48, 2 * int(division(Case(gpus, "colocated"))["policy.learner.ranks"]))


def settings_for(case: Case, folder: Path, iterations: int) -> Settings:
    """The preset for this number of GPUs, divided by `division`, without evaluation."""
    folder.mkdir(exist_ok=True)
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"text": f"a cup left of {number} plates"}) for number in range(64)))
    return load(
        preset_of(case),
        [
            f"run_dir={folder / 'run'}",
            f"policy.prompts={prompts}",
            f"policy.iterations={iterations}",
            f"policy.prompts_per_iteration={prompts_for(case.gpus)}",
            f"policy.placement={case.placement}",
            "policy.evaluation.every=0",
            *(f"{name}={value}" for name, value in division(case).items()),
        ],
    )


def seconds_of(settings: Settings, gpu: str) -> Seconds:
    """The planner's durations."""
    roles: RoleSeconds = durations(settings, GPU_TYPES[gpu])
    policy = settings.policy
    rows = kept_images(policy) * len(SamplingPlan.for_training(policy).train_steps)
    chunk = roles.sample_chunk + roles.decode_chunk + roles.encode_prompt
    return Seconds(
        sample_image=chunk / roles.chunk_images,
        learn_pass=roles.accumulate_chunk,
        passes=-(-rows // chunk_rows(policy)),
        score_group=roles.score_group,
        optimizer_step=roles.optimizer_step,
        publish=roles.publish,
        checkpoint=roles.checkpoint,
        start_rollout=roles.start_rollout,
        start_learner=roles.start_learner,
        start_reward=START_REWARD_S,
    )


def run(case: Case, gpu: str) -> Result:
    """Simulates one case twice: undisturbed, and with a GPU that fails, which has a learner rank: the worst case."""
    with tempfile.TemporaryDirectory() as folder:
        settings = settings_for(case, Path(folder), ITERATIONS)
        seconds = seconds_of(settings, gpu)
        outcome = simulate(settings, seconds, case.gpus, None, JITTER)
        before, after = outcome.marks[1:3]
        failure = Failures((before.at + after.at) / 2 - START_REWARD_S, of_rank=True)
        again = settings_for(case, Path(folder) / "failing", ITERATIONS)
        disturbed = simulate(again, seconds, case.gpus, failure, JITTER)
    assert disturbed.failures == 1
    return summary(settings, seconds, case.gpus, outcome, disturbed.marks[-1].at - outcome.marks[-1].at)


def useful_seconds(settings: Settings, seconds: Seconds) -> float:
    """GPU-seconds of the work of one iteration."""
    policy = settings.policy
    group = policy.group_size * seconds.sample_image + seconds.passes * seconds.learn_pass + seconds.score_group
    steps = policy.optimizer.steps_per_iteration * policy.learner.ranks * seconds.optimizer_step
    return policy.prompts_per_iteration * group + steps


def summary(settings: Settings, seconds: Seconds, gpus: int, outcome: Outcome, lost: float) -> Result:
    """Means over the iterations after the first. `lost`: virtual seconds that a failure costs."""
    policy, first, last = settings.policy, outcome.marks[0], outcome.marks[-1]
    iterations, passed = last.version - first.version, last.at - first.at

    def share(kind: Literal["sample", "learn", "score"]) -> float:
        return (last.gpu_seconds.get(kind, 0.0) - first.gpu_seconds.get(kind, 0.0)) / (passed * gpus)

    calls, returns = last.calls - first.calls, last.returns - first.returns
    driver = last.driver_cpu - first.driver_cpu + RAY_CALL_S * calls + RAY_RETURN_S * returns
    return Result(
        prompts=policy.prompts_per_iteration,
        split=f"{policy.rollout.max_actors}+{policy.learner.ranks}+{settings.serving.max_replicas}",
        iteration_seconds=passed / iterations,
        busy=useful_seconds(settings, seconds) * iterations / (passed * gpus),
        sample=share("sample"),
        learn=share("learn"),
        score=share("score"),
        driver_seconds=driver / iterations,
        lost_seconds=lost,
    )


COLUMNS = (
    "GPUs", "placement", "rollouts+ranks+replicas", "prompts", "s/iteration", "busy", "sample", "learn", "score",
    "driver CPU s", "of an iteration", "s lost by a failure", "busy, one failure an hour",
)  # fmt: skip


def line(values: Sequence[str]) -> str:
    """One row of the table."""
    return "  ".join(value.rjust(len(column)) for value, column in zip(values, COLUMNS, strict=True))


def cells(case: Case, result: Result) -> list[str]:
    """The values of a row."""
    shares = [f"{share:.1%}" for share in (result.busy, result.sample, result.learn, result.score)]
    return [
        str(case.gpus), case.placement, result.split, str(result.prompts), f"{result.iteration_seconds:.1f}", *shares,
        f"{result.driver_seconds:.2f}", f"{result.driver_share:.2%}", f"{result.lost_seconds:.0f}",
        f"{result.busy_with_failures:.1%}",
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpu", choices=sorted(GPU_TYPES), default="H20", help="type of the GPUs (default: H20)")
    parser.add_argument("--gpus", type=int, nargs="*", default=SIZES, help="numbers of GPUs: 8, 32 or a multiple of 32")
    chosen = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    started = time.process_time()
    print(line(COLUMNS))
    for gpus in chosen.gpus:
        for placement in PLACEMENTS:
            case = Case(gpus, placement)
            print(line(cells(case, run(case, chosen.gpu))), flush=True)
    print(f"{time.process_time() - started:.0f} s of CPU time in all")


if __name__ == "__main__":
    main()
