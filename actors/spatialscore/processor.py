"""Turns images and prompts into one batch of tensors with explicit 2-D rotary positions.

Axes: B images, R rows (an image under a prompt), L tokens, N patches of all images, F values of a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from actors.images import rgb_pixels
from actors.reward_input import InputError
from actors.spatialscore.config import USEFUL_FACTOR
from actors.spatialscore.prompt import PromptTemplate
from actors.spatialscore.resize import ImageBounds

Images = np.ndarray | Sequence[np.ndarray]
"""uint8 [B, H, W, 3], or B arrays uint8 [H, W, 3] of any sizes."""

PilImages = Sequence[Image.Image]
"""What diffusers returns."""

Side = Literal["left", "right"]


@dataclass(frozen=True)
class ScoreBatch:
    """The input of `SpatialScore.forward`."""

    input_ids: Tensor  # [R, L]
    attention_mask: Tensor | None  # [R, L]; None if padding is on the right, where causal attention never reads it
    position_ids: Tensor  # [3, R, L] temporal, height and width positions of Qwen2.5-VL's M-RoPE
    pixel_values: Tensor  # [N, F]
    image_grid_thw: Tensor  # [B, 3] in patches
    image_index: Tensor  # [R] the image of each row

    def to(self, device: torch.device | str) -> ScoreBatch:
        """The same batch on another device. A copy from pinned memory does not wait."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> ScoreBatch:
        """The same batch in page-locked memory, from which a GPU copies while it computes."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Callable[[Tensor], Tensor]) -> ScoreBatch:
        return ScoreBatch(
            input_ids=change(self.input_ids),
            attention_mask=None if self.attention_mask is None else change(self.attention_mask),
            position_ids=change(self.position_ids),
            pixel_values=change(self.pixel_values),
            image_grid_thw=change(self.image_grid_thw),
            image_index=change(self.image_index),
        )


@dataclass(frozen=True)
class _Row:
    ids: np.ndarray  # [L]
    positions: np.ndarray  # [3, L]


def as_arrays(images: Images | PilImages) -> Images:
    """PIL images as uint8 [H, W, 3], by the rules of `rgb_pixels`. Arrays stay as they are.

    Raises InputError for one image in place of several, and for anything else, ImageError for an unreadable image.
    """
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3):
        raise InputError("images must be a list of images, or an array [B, H, W, 3], got one image: write [image]")
    if isinstance(images, np.ndarray):
        return images
    arrays: list[Any] = [rgb_pixels(image) if isinstance(image, Image.Image) else image for image in images]
    for array in arrays:  # a caller in a notebook may ignore the types
        if not isinstance(array, np.ndarray):
            kind = type(array).__name__
            raise InputError(f"an image must be a PIL image or an array uint8 [H, W, 3], got an object of class {kind}")
    return arrays


class ScoreProcessor:
    """Makes `ScoreBatch`es: patches equal those of Qwen2-VL's image processor, tokens follow the prompt template."""

    def __init__(self, image_processor: Qwen2VLImageProcessorPil, template: PromptTemplate, pad_id: int) -> None:
        self.image_processor = image_processor
        self.template = template
        self._pad_id = pad_id

    def __call__(
        self,
        images: Images,
        prompts: Sequence[str],
        image_index: Sequence[int] | None = None,
        padding_side: Side = "right",
        *,
        fitted: bool = False,
    ) -> ScoreBatch:
        """Builds the batch.

        `prompts`: R texts. `image_index` [R]: the image of each row; None means image r for row r. An image under
        several prompts is encoded once. `fitted`: the images have been resized by `bounds` already. Raises ValueError
        for pixels that are not uint8 [H, W, 3], or if the numbers of images and prompts do not match.
        """
        index = list(range(len(prompts))) if image_index is None else list(image_index)
        if len(index) != len(prompts) or (image_index is None and len(images) != len(prompts)):
            raise ValueError(f"every prompt needs its image, got {len(images)} images and {len(prompts)} prompts")
        pixel_values, grid = self.patches(images, fitted=fitted)
        rows = [self._row(prompt, grid[i]) for prompt, i in zip(prompts, index, strict=True)]
        ids, mask, positions = self._pad(rows, padding_side)
        return ScoreBatch(ids, mask, positions, pixel_values, grid, torch.tensor(index))

    @property
    def bounds(self) -> ImageBounds:
        """How images are resized."""
        processor = self.image_processor
        return ImageBounds(int(processor.size["longest_edge"]), processor.patch_size * processor.merge_size)

    @property
    def useful_pixels(self) -> int:
        """Pixels to which an image may be shrunk before it is scored. See USEFUL_FACTOR."""
        return USEFUL_FACTOR * int(self.image_processor.size["longest_edge"])

    @property
    def image_tokens(self) -> int:
        """Tokens of a square image in the language model."""
        bounds = self.bounds
        side, _ = bounds.target(1024, 1024)
        return (side // bounds.factor) ** 2

    def patches(self, images: Images, *, fitted: bool = False) -> tuple[Tensor, Tensor]:
        """Patches [N, F] float32 and their grids [B, 3], equal to those of the library's processor.

        `fitted`: the images have been resized already.
        """
        for image in images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
        if len(images) == 0:
            raise ValueError("a batch must hold at least one image, got none")
        height, width = images[0].shape[:2]
        equal = all(image.shape[:2] == (height, width) for image in images)
        if equal and (fitted or not self._resizes(height, width)):
            return equal_patches(self.image_processor, np.asarray(images))
        if fitted:
            parts = [equal_patches(self.image_processor, image[None]) for image in images]
            return torch.cat([values for values, _ in parts]), torch.cat([grid for _, grid in parts])
        output = self.image_processor(list(images), return_tensors="pt", input_data_format="channels_last")
        return output["pixel_values"], output["image_grid_thw"]

    def _resizes(self, height: int, width: int) -> bool:
        return (height, width) != self.bounds.target(height, width)

    def _row(self, prompt: str, grid: Tensor) -> _Row:
        """Token ids and M-RoPE positions of one row, as `Qwen2_5_VLModel.get_rope_index` defines them."""
        tokens = self.template.encode(prompt)
        merge = self.image_processor.merge_size
        rows, columns = int(grid[1]) // merge, int(grid[2]) // merge
        first, image, last = len(tokens.before), rows * columns, len(tokens.after)
        ids = np.array((*tokens.before, *[self.template.image_id] * image, *tokens.after), dtype=np.int64)
        positions = np.empty((3, len(ids)), dtype=np.int64)
        positions[:, :first] = np.arange(first)
        positions[0, first : first + image] = first
        positions[1, first : first + image] = first + np.repeat(np.arange(rows), columns)
        positions[2, first : first + image] = first + np.tile(np.arange(columns), rows)
        positions[:, first + image :] = first + max(rows, columns) + np.arange(last)
        return _Row(ids, positions)

    def _pad(self, rows: Sequence[_Row], side: Side) -> tuple[Tensor, Tensor | None, Tensor]:
        """Token ids [R, L], attention mask [R, L] (None for right padding), positions [3, R, L]."""
        if side not in ("left", "right"):
            raise ValueError(f"padding_side must be left or right, got {side!r}")
        length = max(len(row.ids) for row in rows)
        input_ids = np.full((len(rows), length), self._pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        position_ids = np.zeros((3, len(rows), length), dtype=np.int64)
        for r, row in enumerate(rows):
            span = slice(0, len(row.ids)) if side == "right" else slice(length - len(row.ids), length)
            input_ids[r, span], mask[r, span], position_ids[:, r, span] = row.ids, 1, row.positions
        attention_mask = torch.from_numpy(mask) if side == "left" else None
        return torch.from_numpy(input_ids), attention_mask, torch.from_numpy(position_ids)


def equal_patches(processor: Qwen2VLImageProcessorPil, images: np.ndarray) -> tuple[Tensor, Tensor]:
    """Patches [N, F] and grids [B, 3] of images uint8 [B, H, W, 3] that need no resizing, computed in one batch.

    The layout equals that of the library, which processes image by image. Raises ValueError if patches do not tile the
    images.
    """
    patch, merge, repeat = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    count, height, width, _ = images.shape
    if height % (patch * merge) or width % (patch * merge):
        raise ValueError(f"height and width must be multiples of {patch * merge} pixels, got {height} x {width}")
    rows, columns = height // patch, width // patch
    mean = torch.tensor(processor.image_mean) * 255.0
    std = torch.tensor(processor.image_std) * 255.0
    pixels = (torch.from_numpy(np.array(images)).float() - mean) / std  # [B, H, W, 3]
    pixels = pixels.view(count, rows // merge, merge, patch, columns // merge, merge, patch, 3)
    pixels = pixels.permute(0, 1, 4, 2, 5, 7, 3, 6)  # [B, rows/m, columns/m, m, m, 3, patch, patch]
    pixels = pixels.unsqueeze(6).expand(*pixels.shape[:6], repeat, patch, patch)
    grid = torch.tensor([[1, rows, columns]]).expand(count, 3).contiguous()
    return pixels.reshape(count * rows * columns, 3 * repeat * patch * patch), grid
