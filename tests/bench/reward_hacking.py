"""The exercise of docs/reward_hacking.md as one table: `python -m tests.bench.reward_hacking OUT`; `--help`: options.

Trains the FLUX of the scenes world twice from the same base and seed: on a reward with a flaw, which counts patches of
colour, and on the exact checker's rules, which have none. Prints what the watch says at each evaluation. Finished runs
are kept in OUT. It is not part of `make bench`.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import ray

from conf import load
from pipelines.common.paths import run_paths
from pipelines.policy.metrics import EvaluationRow, read_evaluations
from pipelines.policy.train import run_policy
from pipelines.policy.watch import fallen
from tests.bench.table import Line, show

REWARDS = {
    "flawed": ("rewards.patches.kind=python", "rewards.patches.path=pipelines.scenes.flawed_reward:count_patches",
               "rewards.patches.weight=1", "rewards.rules.weight=0"),
    "healthy": ("rewards.rules.weight=1",),
}  # fmt: skip
"""Name of a run -> its rewards. The flawed one watches the exact checker's rules."""
FAST = ("policy.algorithm.base_regularizer_weight=0", "policy.optimizer.lr=0.006")
"""Nothing holds the policy near its base, and it learns fast: what hours of training may do takes minutes."""


def train(out: Path, name: str, iterations: int) -> tuple[EvaluationRow, ...]:
    """Trains one run, unless it is finished, and returns its evaluations."""
    settings = load("scenes", [
        f"run_dir={out / name}", "rewards.spatialscore=0", *REWARDS[name], f"policy.iterations={iterations}",
        "policy.evaluation.every=5", *FAST,
    ])  # fmt: skip
    run_policy(settings)
    return read_evaluations(run_paths(settings).evaluations)


def lines_of(name: str, rows: tuple[EvaluationRow, ...]) -> list[Line]:
    """One row for each evaluation."""
    return [
        Line(
            f"{name}, iteration {row.iteration}",
            f"reward {row.reward_mean:.2f}, fully correct {row.measures['fully_correct']['mean']:.1%}, with an object "
            f"nobody asked for {row.unrequested_short:.1%} short {row.unrequested_long:.1%} long; "
            f"falls: {fallen(row.measures) or 'none'}",
        )
        for row in rows
    ]


def main() -> None:
    """Parses the command line, trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of the runs")
    parser.add_argument("--iterations", type=int, default=25)
    options = parser.parse_args()
    ray.init("local", num_cpus=2, include_dashboard=False, logging_level=logging.ERROR)
    lines = [line for name in REWARDS for line in lines_of(name, train(options.out, name, options.iterations))]
    show("A reward with a flaw, and one without", lines)


if __name__ == "__main__":
    main()
