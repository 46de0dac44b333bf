"""SpatialScore: images scored per second, cost of an optimizer step by pixel budget, and the four losses.

python -m tests.bench.bench_reward            # all tables
python -m tests.bench.bench_reward losses     # one table: scoring | pixel_budget | losses
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from actors.spatialscore import SpatialScore, SpatialScoreConfig, SpatialScorer, build
from conf.reward import RewardSettings
from pipelines.preferences.roles.base import RowSpec
from pipelines.reward.accuracy import ModelReport
from pipelines.reward.data import Pair
from pipelines.reward.evaluate import measure
from pipelines.reward.fit import RewardFitter
from pipelines.scenes import checkpoints_dir
from tests.support.scene_pairs import scene_pairs
from tests.support.tiny_reward import decoded

SCORED = 96
SIDES = (64, 128, 192, 256)  # width and height of an image in pixels
STEPS, LOSS_STEPS, BATCH = 4, 100, 32


def main(names: Sequence[str] = ("scoring", "pixel_budget", "losses")) -> None:
    """Prints the tables with these names."""
    torch.set_num_threads(2)
    for name in names:
        {"scoring": scoring, "pixel_budget": pixel_budget, "losses": losses}[name]()


def scoring() -> None:
    """Images per second: in batches, one by one, and in a loop over transformers' classes."""
    images = np.random.default_rng(0).integers(0, 256, (SCORED, 64, 64, 3), dtype=np.uint8)
    prompts = ["a red circle left of a blue square and above a green triangle"] * SCORED
    model = build(SpatialScoreConfig(model=str(checkpoints_dir("qwen2_5_vl")), pixels=4096)).eval()
    plain = _rate(lambda: _plain_loop(model, images, prompts))
    scorer = SpatialScorer(model.merge())
    unbatched = SpatialScorer(model, batch_images=1)
    batched = _rate(lambda: scorer.score(images=images, prompts=prompts))
    single = _rate(lambda: unbatched.score(images=images, prompts=prompts))
    print(f"SpatialScore, images of 64x64 scored per second, {torch.get_num_threads()} CPU threads")
    for name, rate in (("plain transformers loop", plain), ("one by one", single), ("48 a batch", batched)):
        print(f"{name:<24} {rate:8.1f}   {rate / plain:5.1f} times the loop")


def _rate(score: Callable[[], object]) -> float:
    score()
    start = time.perf_counter()
    score()
    return SCORED / (time.perf_counter() - start)


@torch.inference_mode()
def _plain_loop(model: SpatialScore, images: np.ndarray, prompts: Sequence[str]) -> list[float]:
    """The same without this project: the library's image processor and forward pass, one image at a time."""
    template, processor, scores = model.processor.template, model.processor.image_processor, []
    for image, prompt in zip(images, prompts, strict=True):
        patches = processor(Image.fromarray(image), return_tensors="pt")
        tokens = template.encode(prompt)
        count = int(patches["image_grid_thw"].prod()) // processor.merge_size**2
        ids = torch.tensor([[*tokens.before, *[template.image_id] * count, *tokens.after]])
        hidden = model.vlm(
            input_ids=ids,
            pixel_values=patches["pixel_values"],
            image_grid_thw=patches["image_grid_thw"],
            mm_token_type_ids=(ids == template.image_id).int(),
            use_cache=False,
        ).last_hidden_state
        scores.append(float(model.head(hidden[ids == model.reward_id])[0]))
    return scores


def pixel_budget() -> None:
    """Time of an optimizer step of 8 pairs, and peak memory of the process, from small images to large."""
    print("SpatialScore, an optimizer step of 8 pairs\n  pixels   tokens    s/step   peak MiB")
    for side in SIDES:
        fitter = _fitter(RewardSettings(batch_size=8, workers=1), side * side)
        images = np.random.default_rng(0).integers(0, 256, (16, side, side, 3), dtype=np.uint8)
        text = "a red circle left of a blue square"
        pairs = [Pair(str(i), text, None, images[2 * i], images[2 * i + 1], "perturbed", 1) for i in range(8)]
        fitter.optimizer_step(pairs, 0, STEPS)
        start = time.perf_counter()
        for step in range(STEPS):
            fitter.optimizer_step(pairs, step, STEPS)
        seconds = (time.perf_counter() - start) / STEPS
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{side:4d}x{side:<4d} {(side // 16) ** 2:7d}  {seconds:8.3f}  {peak:9.0f}")


def losses() -> None:
    """Held-out accuracy and calibration of the four losses after the same number of steps on the same random pairs.

    A fit of the demo has about four times as many steps.
    """
    training, held_out = _random_pairs(0, 1600), _random_pairs(1600, 2000)
    print(f"SpatialScore, {LOSS_STEPS} steps of {BATCH} pairs, {len(held_out)} other pairs in the right order")
    print(f"{'loss':<10} {'all':>7} {'1 change':>9} {'2-3':>7} {'corrupted':>9} {'sigma':>8} {'ECE':>8}")
    for loss in ("bt", "sampled", "marginal", "probit"):
        fitter = _fitter(RewardSettings(loss=loss, batch_size=BATCH, workers=1), 4096)
        for step in range(LOSS_STEPS):
            chosen = np.random.default_rng([0, step]).choice(len(training), BATCH, replace=False)
            fitter.optimizer_step([training[i] for i in chosen], step, LOSS_STEPS)
        scorer = SpatialScorer(fitter.model)
        sigma = scorer.score(images=[p.image_w for p in held_out], prompts=[p.prompt for p in held_out]).sigma.mean()
        measurement = measure(scorer, held_out)
        error = measurement.calibrations[1].error
        print(f"{loss:<10} {_row(measurement.report)} {sigma:8.3f} {error:8.3f}")


def _row(report: ModelReport) -> str:
    found = report.accuracies
    accuracies = (found.overall, found.one_change, found.more_changes, found.corrupted)
    cells = [f"{accuracy.accuracy:.1%}" if accuracy else "-" for accuracy in accuracies]
    return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, (7, 9, 7, 9), strict=True))


def _fitter(settings: RewardSettings, pixels: int) -> RewardFitter:
    torch.manual_seed(0)
    model = build(SpatialScoreConfig(model=str(Path(checkpoints_dir("qwen2_5_vl"))), pixels=pixels))
    return RewardFitter(model, settings, torch.device("cpu"))


def _random_pairs(first: int, last: int) -> list[Pair]:
    """Pairs of the scenes world. None of them is generated by the base policy."""
    specs = [RowSpec(index, "corrupted" if index % 3 == 0 else "perturbed", index) for index in range(first, last)]
    return [decoded(pair) for pair in scene_pairs(specs)]


if __name__ == "__main__":
    main(sys.argv[1:] or ("scoring", "pixel_budget", "losses"))
