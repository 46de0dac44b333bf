"""Images with questions and answers, packed into batches.

Each image has several questions. They share the tokens of the image and do not attend to each other (block attention;
positions restart after the image), so one forward pass is equal to as many single-turn chats.
Axes: B images, L tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import AutoencoderKL
from scipy import ndimage
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from actors.spatialscore.processor import equal_patches
from pipelines.pretrain.vae import decode, encode
from pipelines.pretrain.vlm_model import build_image_processor
from pipelines.pretrain.vqa_questions import QuestionAnswer, ask, scatter
from pipelines.scenes.grammar import SceneObject
from pipelines.scenes.render import GRID, Placement, render

REUSE, POOL = 3, 1500  # uses of a rendered image; images kept. Rendering costs a third of an optimizer step.
DECODED = 0.4  # share of rendered images that went through FLUX's autoencoder, as all images of a policy do
FLUX_SHARE = 0.4  # share of images that FLUX generated, if there are any


@dataclass(frozen=True)
class VqaBatch:
    """Images with their packed questions."""

    input_ids: Tensor  # [B, L]
    labels: Tensor  # [B, L]; -100 except for tokens of answers
    position_ids: Tensor  # [3, B, L]
    mask: Tensor  # [B, 1, L, L] bool
    pixel_values: Tensor  # [B * patches, values of a patch]
    image_grid_thw: Tensor  # [B, 3]


@dataclass(frozen=True)
class SceneImage:
    """An image and its true content."""

    placements: tuple[Placement, ...]
    image: np.ndarray  # uint8 [SIZE, SIZE, 3]
    missing: tuple[SceneObject, ...] = ()  # objects of the prompt that are absent or not clean


class VqaBatches:
    """An endless source of images with questions. A rendered image is used about REUSE times."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        seed: int,
        questions: int = 8,
        vae: AutoencoderKL | None = None,
        flux_images: Sequence[SceneImage] = (),
        flux_share: float = FLUX_SHARE,
    ) -> None:
        """`questions`: per image, at most."""
        self._rng = np.random.default_rng(seed)
        self._vocabulary = tokenizer.get_vocab()
        self._processor = build_image_processor()
        self._questions = questions
        self._vae = vae
        self._flux_images, self._flux_share = flux_images, flux_share if flux_images else 0.0
        self._pool: list[SceneImage] = []

    def draw(self, count: int, relational: float = 0.6) -> tuple[VqaBatch, list[list[QuestionAnswer]]]:
        """Returns a batch of `count` images and the questions of each.

        relational: share of questions about relations.
        """
        n_flux = int(self._rng.binomial(count, self._flux_share))
        scenes = self._rendered(count - n_flux)
        if n_flux:
            scenes += [self._flux_images[i] for i in self._rng.integers(len(self._flux_images), size=n_flux)]
        asked = [ask(scene.placements, self._questions, self._rng, relational, scene.missing) for scene in scenes]
        pixel_values, grid = equal_patches(self._processor, np.stack([scene.image for scene in scenes]))
        return self._pack(asked, pixel_values, grid), asked

    def _rendered(self, count: int) -> list[SceneImage]:
        fresh = self._through_vae([self._render() for _ in range(math.ceil(count / REUSE))])
        self._pool = [*fresh, *self._pool][:POOL]
        again = [self._pool[i] for i in self._rng.permutation(len(self._pool))[: count - len(fresh)]]
        return [*fresh, *again, *(self._render() for _ in range(count - len(fresh) - len(again)))]

    def _render(self) -> SceneImage:
        placements = scatter(self._rng)
        return SceneImage(placements, degrade(render(placements, self._rng), self._rng))

    def _through_vae(self, scenes: list[SceneImage]) -> list[SceneImage]:
        """Encodes and decodes a share DECODED of the images. The order changes."""
        chosen = [scene for scene in scenes if self._vae and self._rng.random() < DECODED]
        if self._vae is None or not chosen:
            return scenes
        images = decode(self._vae, encode(self._vae, np.stack([scene.image for scene in chosen])))
        decoded = [SceneImage(scene.placements, image) for scene, image in zip(chosen, images, strict=True)]
        replaced = {id(scene) for scene in chosen}
        return [scene for scene in scenes if id(scene) not in replaced] + decoded

    def ids(self, text: str) -> list[int]:
        """Returns the token ids of words separated by spaces."""
        return [self._vocabulary[word] for word in text.split()]

    def _pack(self, asked: list[list[QuestionAnswer]], pixel_values: Tensor, grid: Tensor) -> VqaBatch:
        prefix = self.ids("<|im_start|> user <|vision_start|>" + " <|image_pad|>" * GRID**2 + " <|vision_end|>")
        rows = [[self._block(pair) for pair in pairs] for pairs in asked]
        length = len(prefix) + max(sum(len(ids) for ids, _ in row) for row in rows)
        ids = np.zeros((len(rows), length), dtype=np.int64)
        labels = np.full_like(ids, -100)
        positions = np.zeros((3, *ids.shape), dtype=np.int64)
        block = np.full_like(ids, -1)
        positions[:, :, : len(prefix)] = _image_positions(len(prefix))[:, None]
        ids[:, : len(prefix)], block[:, : len(prefix)] = prefix, 0
        for r, row in enumerate(rows):
            at = len(prefix)
            for number, (tokens, answer_at) in enumerate(row, start=1):
                end = at + len(tokens)
                ids[r, at:end], block[r, at:end] = tokens, number
                labels[r, at + answer_at : end] = tokens[answer_at:]
                positions[:, r, at:end] = 3 + GRID + 1 + np.arange(len(tokens))
                at = end
        return VqaBatch(
            torch.from_numpy(ids),
            torch.from_numpy(labels),
            torch.from_numpy(positions),
            _block_mask(torch.from_numpy(block)),
            pixel_values,
            grid,
        )

    def _block(self, pair: QuestionAnswer) -> tuple[list[int], int]:
        """Returns the token ids of one question with its answer, and the index at which the answer starts."""
        question = self.ids(f"{pair.question} <|im_end|> <|im_start|> assistant")
        return question + self.ids(f"{pair.answer} <|im_end|>"), len(question)


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blurs an image slightly, adds noise, or both; about half of the images stay as they are."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.35:
        pixels = ndimage.gaussian_filter(pixels, (*[rng.uniform(0.3, 1.0)] * 2, 0))
    if rng.random() < 0.35:
        pixels += rng.normal(0.0, rng.uniform(1.0, 8.0), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _image_positions(length: int) -> np.ndarray:
    """Returns the M-RoPE positions of the image part, [3, length]: 3 tokens, a GRID x GRID image, 1 token."""
    positions = np.broadcast_to(np.arange(length), (3, length)).copy()
    positions[:, 3:-1] = 3
    positions[1, 3:-1] += np.repeat(np.arange(GRID), GRID)
    positions[2, 3:-1] += np.tile(np.arange(GRID), GRID)
    positions[:, -1] = 3 + GRID
    return positions


def _block_mask(block: Tensor) -> Tensor:
    """Returns a mask of causal attention within a block and to the image (block 0), bool [B, 1, L, L]."""
    same = (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == 0)
    return (same & torch.ones(block.shape[1], block.shape[1], dtype=torch.bool).tril())[:, None]
