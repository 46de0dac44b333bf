"""SpatialScore at full size with random weights on one GPU: pairs/s, images/s, MFU and peak memory.

    python -m tests.bench.gpu_reward                     # Qwen2.5-VL-7B, bfloat16, the paper's batch of 32 pairs
    python -m tests.bench.gpu_reward --size tiny --batch 4   # the same code with the scenes model, on any machine

Random weights take as long as trained ones. The 7B checkpoint (16 GB) is written to --folder once.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.spatialscore import SpatialScore, SpatialScoreConfig, SpatialScorer, build
from actors.spatialscore.flops import FlopsCounter, measured_peak
from conf.reward import RewardSettings
from pipelines.pretrain.vlm_model import SPECIAL, build_model, build_tokenizer, save
from pipelines.reward.data import Pair
from pipelines.reward.fit import RewardFitter
from pipelines.reward.train_metrics import TrainMetrics

TEXT_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
VISION_7B = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
WORDS = "a red circle left of a blue square and above a green triangle"


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints pairs/s, MFU and peak memory of training, and images/s of scoring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("7b", "tiny"), default="7b")
    parser.add_argument("--batch", type=int, default=32, help="pairs per optimizer step")
    parser.add_argument("--steps", type=int, default=8, help="measured optimizer steps, after two steps of warm-up")
    parser.add_argument("--words", type=int, default=120, help="words per prompt")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/spatialt2i-random-vlm"))
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side, large = (448, True) if options.size == "7b" else (64, False)
    folder = options.folder / options.size
    if not folder.exists():
        _write(folder, large)
    model = build(
        SpatialScoreConfig(
            model=str(folder),
            pixels=side * side,
            dtype="bfloat16",
            lora_rank=64,
            lora_alpha=128,
            head_width=1024 if large else 96,
        ),
        gradient_checkpointing=True,
    )
    peak = measured_peak(device, torch.bfloat16)
    print(f"{options.size} on {_name(device)}, measured peak {peak / 1e12:.3g} TFLOP/s in bfloat16")
    prompts = [" ".join((WORDS.split() * options.words)[: options.words])] * options.batch
    _train(model, _pairs(options.batch, side, prompts), options.steps, device, peak)
    _score(model, side, prompts, options.steps, device, peak)


def _train(model: SpatialScore, pairs: list[Pair], steps: int, device: torch.device, peak: float) -> None:
    settings = RewardSettings(loss="sampled", batch_size=len(pairs), workers=1, lr=2e-6, mirror=False)
    fitter = RewardFitter(model, settings, device)
    for step in range(2):
        fitter.optimizer_step(pairs, step, steps)
    metrics, start = TrainMetrics(), time.perf_counter()
    for step in range(steps):
        fitter.optimizer_step(pairs, step, steps, metrics)
    seconds = time.perf_counter() - start
    memory = f"  peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device.type == "cuda" else ""
    mfu = metrics.flops / seconds / peak
    print(f"training  {metrics.pairs / seconds:8.2f} pairs/s   MFU {mfu:.1%} of the measured peak{memory}")


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


def _write(folder: Path, large: bool) -> None:
    """Writes a transformers directory with random weights and the scenes world's word-level tokenizer."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    if not large:
        save(build_model(tokenizer), tokenizer, folder)
        return
    ids = {name: tokenizer.get_vocab()[name] for name in SPECIAL}
    config = Qwen2_5_VLConfig(
        text_config=TEXT_7B,
        vision_config=VISION_7B,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        dtype="bfloat16",
    )
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    finally:
        torch.set_default_dtype(default)
    tokenizer.save_pretrained(folder)
    Qwen2VLImageProcessorPil(patch_size=14, merge_size=2, temporal_patch_size=2).save_pretrained(folder)


def _pairs(count: int, side: int, prompts: list[str]) -> list[Pair]:
    w, l = _images(count, side), _images(count, side)  # noqa: E741
    return [Pair(str(i), prompts[i], None, w[i], l[i], "perturbed", 1) for i in range(count)]


def _images(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


if __name__ == "__main__":
    main()
