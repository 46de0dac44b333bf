"""SpatialScore at full size with random weights on one GPU: pairs/s, images/s, MFU, peak memory, and decoding.

    python -m tests.bench.gpu_reward                       # the preset flux_dev: Qwen2.5-VL-7B, 32 pairs a step
    python -m tests.bench.gpu_reward --micro 4               # 4 pairs a pass: compare pairs/s and peak memory
    python -m tests.bench.gpu_reward --form tiny --batch 4   # the same code with the scenes model, on any machine

Random weights take as long as trained ones. They are made on the device, so nothing is written to disk. The figures
stand beside what `spatialt2i plan flux_dev` predicts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch

from actors.spatialscore import SpatialScore, SpatialScorer
from actors.spatialscore.flops import FlopsCounter, measured_peak
from actors.spatialscore.resize import ImageBounds
from conf.load import load
from conf.reward import RewardSettings
from pipelines.common.images import encode_png
from pipelines.reward.data import Pair
from pipelines.reward.fit import RewardFitter
from pipelines.reward.prefetch import prefetched
from pipelines.reward.train_metrics import TrainMetrics
from tests.bench.gpu_models import spatialscore_of

WORDS = "a red circle left of a blue square and above a green triangle"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints pairs/s, MFU and peak memory of training, images/s of scoring, and images/s of decoding on one core."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--form", choices=("full", "tiny"), default="full")
    parser.add_argument("--batch", type=int, default=32, help="pairs per optimizer step")
    parser.add_argument("--micro", type=int, default=0, help="pairs of a forward and backward pass; 0: all of the step")
    parser.add_argument("--steps", type=int, default=8, help="measured optimizer steps, after two steps of warm-up")
    parser.add_argument("--words", type=int, default=120, help="words per prompt")
    parser.add_argument("--sides", type=int, nargs="*", default=(1024, 2048), help="of the images that are decoded")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = spatialscore_of(options.form, load("flux_dev", []), device)
    model.vlm.gradient_checkpointing_enable({"use_reentrant": False})
    peak = measured_peak(device, next(model.vlm.parameters()).dtype)
    tokens, bounds = model.processor.image_tokens, model.processor.bounds
    print(f"{options.form} on {_name(device)}, measured peak {peak / 1e12:.3g} TFLOP/s, {tokens} tokens an image")
    side = bounds.target(1024, 1024)[0]
    prompts = [" ".join((WORDS.split() * options.words)[: options.words])] * options.batch
    _train(model, _pairs(options.batch, side, prompts), options.micro, options.steps, device, peak)
    _score(model, side, prompts, options.steps, device, peak)
    for decoded in options.sides:
        _decode(bounds, decoded)


def _train(model: SpatialScore, pairs: list[Pair], micro: int, steps: int, device: torch.device, peak: float) -> None:
    """Optimizer steps whose batches a thread prepares, as in a fit."""
    settings = RewardSettings(
        loss="sampled",
        sigma_draws=1000,
        batch_size=len(pairs),
        micro_batch_size=micro,
        workers=1,
        lr=2e-6,
        mirror=False,
    )
    fitter = RewardFitter(model, settings, device)
    metrics, start = TrainMetrics(), 0.0
    inputs = (fitter.prepare(pairs, step, fitted=True) for step in range(2 + steps))
    for step, prepared in enumerate(prefetched(inputs)):
        if step == 2:
            metrics, start = TrainMetrics(), time.perf_counter()
        fitter.learn(prepared, 2 + steps, metrics)
    seconds = time.perf_counter() - start
    memory = f"  peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else ""
    mfu = metrics.flops / seconds / peak
    print(f"training  {metrics.pairs / seconds:8.2f} pairs/s   MFU {mfu:.1%} of the measured peak{memory}")


def _decode(bounds: ImageBounds, side: int) -> None:
    """One core reads PNGs of noise, which are as long as photographs get, at the size that the model sees."""
    files = [encode_png(image) for image in _images(4, side)]
    start = time.perf_counter()
    for file in files:
        bounds.decode(file)
    rate = len(files) / (time.perf_counter() - start)
    size = len(files[0]) / 1e6
    print(f"decoding  {rate:8.2f} images/s  ({rate / 2:.2f} pairs/s) on one core, {side} x {side}, {size:.1f} MB each")


def _score(model: SpatialScore, side: int, prompts: list[str], steps: int, device: torch.device, peak: float) -> None:
    count = len(prompts)
    scorer = SpatialScorer(model, str(device), batch_images=count)
    images = _images(count, side)
    scorer.score(images=images, prompts=prompts)
    start = time.perf_counter()
    for _ in range(steps):
        scorer.score(images=images, prompts=prompts)
    seconds = (time.perf_counter() - start) / steps
    flops = sum(FlopsCounter.of(model).forward(model.processor(images, prompts)))
    print(f"scoring   {count / seconds:8.2f} images/s  MFU {flops / seconds / peak:.1%} of the measured peak")


def _pairs(count: int, side: int, prompts: list[str]) -> list[Pair]:
    w, l = _images(count, side), _images(count, side)  # noqa: E741
    return [Pair(str(i), prompts[i], None, w[i], l[i], "perturbed", 1) for i in range(count)]


def _images(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    main()
