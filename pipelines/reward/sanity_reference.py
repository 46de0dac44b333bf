"""Sanity checks against an independent computation: the library's processor and forward pass, and the head by hand.

The other checks look at what the scores do. These look at how they are computed, for a few rows, one at a time.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.spatialscore import SpatialScorer
from actors.spatialscore.prompt import REWARD_TOKEN
from pipelines.reward.data import Pair
from pipelines.reward.noise_floor import device_of, noise_floor
from pipelines.reward.sanity_report import SanityCheck

ROWS = 4
PATCH_TOLERANCE = 1e-4  # of a normalized pixel value
_SIZES = ((1.0, 1.0), (1.5, 1.0), (0.75, 1.75), (2.5, 2.5))  # of width and height: other aspect ratios, and larger


def check_preprocessing(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """Images should be resized to `spatialscore.pixels` and cut into patches as Qwen's own processor does."""
    images, _ = _rows(pairs)
    worst = 0.0
    for image in images:
        patches, grid = scorer.model.processor.patches([image])
        expected, expected_grid = _library_patches(scorer, image)
        if patches.shape != expected.shape or not torch.equal(grid, expected_grid):
            worst = float("inf")
            break
        worst = max(worst, float((patches - expected).abs().max()))
    return SanityCheck(
        name="preprocessing",
        passed=worst <= PATCH_TOLERANCE,
        value=worst,
        requirement=f"at most {PATCH_TOLERANCE:g} from Qwen2-VL's own processor at {scorer.model.config.pixels} pixels",
        finding="images get another size than spatialscore.pixels asks for"
        if worst == float("inf")
        else f"largest difference of a normalized pixel: {worst:.1g}",
        if_failed="The model sees images of another size, or other pixels, than it was built for: the image "
        "processor's file in its directory does not follow spatialscore.pixels. Train it again, or copy that file.",
    )


def check_forward(scorer: SpatialScorer, pairs: Sequence[Pair], rows: int = ROWS) -> SanityCheck:
    """Scores should equal the head by hand on the library's own forward pass, read at the last token, `<reward>`.

    The library computes the 2-D rotary positions itself, from the token ids and the image's grid. `rows`: how many
    are compared, at most ROWS.
    """
    images, prompts = _rows(pairs, rows)
    expected = np.array([_library_mu(scorer, image, prompt) for image, prompt in zip(images, prompts, strict=True)])
    mu = scorer.score(images, prompts).mu
    difference = float(np.abs(mu - expected).max()) if np.isfinite(mu).all() else float("inf")
    tolerance = max(noise_floor(scorer, images, prompts).tolerance, _head_rounding(scorer, expected))
    return SanityCheck(
        name="forward pass",
        passed=difference <= tolerance,
        value=difference,
        requirement=f"at most {tolerance:.1g}, which rounding causes too",
        finding=f"largest difference from Qwen2.5-VL's own forward pass: {difference:.1g}",
        if_failed="The scores are not those of Qwen2.5-VL with this LoRA and head: image tokens at wrong positions, or "
        "a score that is read at another token than <reward>. The installed transformers may be too new.",
    )


def check_head_precision(scorer: SpatialScorer, pairs: Sequence[Pair]) -> SanityCheck:
    """The head should compute in float32, whatever the dtype of the backbone.

    A float32 number is a bfloat16 number by chance once in 65,536 cases, so scores that all are were rounded.
    """
    images, prompts = _rows(pairs)
    scores = scorer.score(images, prompts)
    values = torch.from_numpy(np.concatenate([scores.mu, scores.sigma]))
    exact = values[torch.isfinite(values) & (values != 0)]
    share = float((exact == exact.bfloat16().float()).float().mean()) if len(exact) else float("nan")
    is_float32 = all(parameter.dtype == torch.float32 for parameter in scorer.model.head.parameters())
    return SanityCheck(
        name="head",
        passed=is_float32 and share < 1.0,
        value=share,
        requirement="less than all of them, and float32 weights",
        finding=f"{share:.1%} of the scores are bfloat16 numbers"
        + ("" if is_float32 else "; the weights of the head are not float32"),
        if_failed="The head computes in bfloat16. Its scores have three digits, so images of one group often tie. Load "
        "the directory with `SpatialScorer.from_pretrained`, which keeps the head in float32.",
    )


def _rows(pairs: Sequence[Pair], rows: int = ROWS) -> tuple[list[np.ndarray], list[str]]:
    """Images of several sizes and aspect ratios, and their prompts: the winners of the first pairs, resized."""
    chosen = [pairs[i % len(pairs)] for i in range(rows)]
    images = [_resized(pair.image_w, *factors) for pair, factors in zip(chosen, _SIZES[:rows], strict=True)]
    return images, [pair.prompt for pair in chosen]


def _resized(image: np.ndarray, width: float, height: float) -> np.ndarray:
    size = (round(image.shape[1] * width), round(image.shape[0] * height))
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize(size, Image.Resampling.BICUBIC))


def _library_patches(scorer: SpatialScorer, image: np.ndarray) -> tuple[Tensor, Tensor]:
    """Patches [N, F] and grid [1, 3] of the library's processor, whose bounds are set anew."""
    pixels = scorer.model.config.pixels
    values = scorer.model.processor.image_processor.to_dict()
    values = {name: value for name, value in values.items() if name not in ("min_pixels", "max_pixels")}
    processor = cast(Any, Qwen2VLImageProcessorPil)(
        **{**values, "size": {"shortest_edge": pixels, "longest_edge": pixels}}
    )
    output = processor([image], return_tensors="pt", input_data_format="channels_last")
    return output["pixel_values"], output["image_grid_thw"]


@torch.inference_mode()
def _library_mu(scorer: SpatialScorer, image: np.ndarray, prompt: str) -> float:
    """The score of one row: `Qwen2_5_VLModel.forward` from token ids, then the head in float64."""
    model, device = scorer.model, device_of(scorer)
    patches, grid = _library_patches(scorer, image)
    template, merge = model.processor.template, model.processor.image_processor.merge_size
    tokens = template.encode(prompt)
    count = int(grid.prod()) // merge**2
    ids = torch.tensor([[*tokens.before, *[template.image_id] * count, *tokens.after]])
    if int(ids[0, -1]) != model.tokenizer.convert_tokens_to_ids(REWARD_TOKEN):
        return float("nan")
    with _low_language_model(scorer):
        output = model.vlm(
            input_ids=cast(torch.LongTensor, ids.to(device)),
            pixel_values=patches.to(device),
            image_grid_thw=cast(torch.LongTensor, grid.to(device)),
            mm_token_type_ids=cast(torch.IntTensor, (ids == template.image_id).int().to(device)),
            use_cache=False,
        )
    hidden = cast(Tensor, output.last_hidden_state)[0, -1]
    weights = {name: value.double().cpu().numpy() for name, value in model.head.state_dict().items()}
    before = weights["layers.0.weight"] @ hidden.double().cpu().numpy() + weights["layers.0.bias"]
    activation = before / (1.0 + np.exp(-before))
    return float(weights["layers.2.weight"][0] @ activation + weights["layers.2.bias"][0])


@contextmanager
def _low_language_model(scorer: SpatialScorer) -> Generator[None]:
    """Runs the language model in bfloat16 if the backbone is: its LoRA has float32 weights, as in training."""
    language_model = cast(Any, scorer.model.vlm).language_model
    low = scorer.model.config.dtype == "bfloat16"
    autocast = torch.autocast(device_of(scorer).partition(":")[0], torch.bfloat16, enabled=low, cache_enabled=False)

    def enter(*_: Any) -> None:
        autocast.__enter__()

    def leave(*_: Any) -> None:
        autocast.__exit__(None, None, None)

    hooks = [
        language_model.register_forward_pre_hook(enter),
        language_model.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _head_rounding(scorer: SpatialScorer, mu: np.ndarray) -> float:
    """What the head's own arithmetic may add: on a GPU float32 products may have the 11 bits of TF32."""
    step = 2.0**-10 if device_of(scorer).startswith("cuda") else 2.0**-16
    return step * max(1.0, float(np.abs(mu).max()))
