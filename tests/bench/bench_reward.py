"""SpatialScore: what a training step costs as the pixel budget grows, and the loss variants side by side."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import torch

from actors.spatialscore import SpatialScoreConfig, SpatialScorer, build
from conf.reward import RewardSettings
from pipelines.preferences.roles import Painted, Task
from pipelines.reward.data import Pair
from pipelines.reward.evaluate import RewardReport, measure
from pipelines.reward.fit import RewardFitter
from pipelines.scenes import checkpoints_dir
from pipelines.scenes.roles import ScenePainter, ScenePerturber, SceneWriter

SIDES = (64, 128, 192, 256)  # pixels
STEPS, LOSS_STEPS, BATCH = 4, 100, 32


def main() -> None:
    """Both tables."""
    torch.set_num_threads(2)
    pixel_budget()
    losses()


def pixel_budget() -> None:
    """Time of a step of 8 pairs, and the process's peak memory, which only grows, from small images to large."""
    print("SpatialScore, a training step of 8 pairs\n  pixels   tokens    s/step   peak MiB")
    for side in SIDES:
        fitter = _fitter(RewardSettings(batch_size=8, workers=1), side * side)
        images = np.random.default_rng(0).integers(0, 256, (16, side, side, 3), dtype=np.uint8)
        text = "a red circle left of a blue square"
        pairs = [Pair(str(i), text, None, images[2 * i], images[2 * i + 1], "perturbed", 1) for i in range(8)]
        fitter.step(pairs, 0, STEPS)
        start = time.perf_counter()
        for number in range(STEPS):
            fitter.step(pairs, number, STEPS)
        seconds = (time.perf_counter() - start) / STEPS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{side:4d}x{side:<4d} {(side // 16) ** 2:7d}  {seconds:8.3f}  {peak:9.0f}")


def losses() -> None:
    """The four losses after equally many steps on the same drawn pairs; a fit of the demo has four times as many."""
    training, held_out = _drawn(0, 1600), _drawn(1600, 2000)
    print(f"SpatialScore, {LOSS_STEPS} steps of {BATCH} pairs, {len(held_out)} other pairs in the right order")
    print(f"{'loss':<10} {'all':>7} {'1 change':>9} {'2-3':>7} {'exploit':>8} {'margin':>8} {'sigma':>8}")
    for loss in ("bt", "sampled", "marginal", "probit"):
        fitter = _fitter(RewardSettings(loss=loss, batch_size=BATCH, workers=1), 4096)
        for number in range(LOSS_STEPS):
            chosen = np.random.default_rng([0, number]).choice(len(training), BATCH, replace=False)
            fitter.step([training[i] for i in chosen], number, LOSS_STEPS)
        scorer = SpatialScorer(fitter.model)
        sigma = scorer.score(images=[p.image_w for p in held_out], prompts=[p.prompt for p in held_out]).sigma.mean()
        print(f"{loss:<10} {_row(measure(scorer, held_out))} {sigma:8.3f}")


def _row(report: RewardReport) -> str:
    shares = (report.overall, report.one_change, report.more_changes, report.exploit)
    one, two, three, four = (f"{share.accuracy:.1%}" if share else "-" for share in shares)
    return f"{one:>7} {two:>9} {three:>7} {four:>8} {report.mean_margin:8.2f}"


def _fitter(settings: RewardSettings, pixels: int) -> RewardFitter:
    torch.manual_seed(0)
    model = build(SpatialScoreConfig(model=str(Path(checkpoints_dir("qwen2_5_vl"))), pixels=pixels))
    return RewardFitter(model, settings, torch.device("cpu"))


def _drawn(first: int, last: int) -> list[Pair]:
    tasks = [Task(index, "exploit" if index % 3 == 0 else "perturbed", index) for index in range(first, last)]
    return [_pair(painted) for painted in ScenePainter().paint(ScenePerturber().perturb(SceneWriter().write(tasks)))]


def _pair(painted: Painted) -> Pair:
    draft = painted.draft
    changed = draft.perturbed.text if draft.perturbed else None
    return Pair(
        str(draft.task.index), draft.prompt.text, changed, painted.winner.pixels(), painted.loser.pixels(),
        draft.task.kind, len(draft.changes) if changed else 0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
