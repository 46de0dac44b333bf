"""Pictures with questions and answers, packed for training.

Each picture comes with several questions. They share the picture's tokens and do not see each other (block attention,
positions restart after the picture), so one forward is as many single-turn chats.
Axes: B pictures, L tokens.
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

REUSE, POOL = 3, 1500  # drawing costs as much as a third of a training step
DECODED = 0.4  # share of fresh pictures that went through FLUX's autoencoder, as all that a policy draws
DRAWN = 0.4  # share of pictures that FLUX drew, where there are any


@dataclass(frozen=True)
class ChatBatch:
    """Pictures with their packed questions."""

    input_ids: Tensor  # [B, L]
    labels: Tensor  # [B, L]; -100 where nothing is asked of the model
    position_ids: Tensor  # [3, B, L]
    mask: Tensor  # [B, 1, L, L] bool
    pixel_values: Tensor
    image_grid_thw: Tensor


@dataclass(frozen=True)
class SceneImage:
    """A drawn picture and the truth about it."""

    placements: tuple[Placement, ...]
    image: np.ndarray  # uint8 [SIZE, SIZE, 3]
    missing: tuple[SceneObject, ...] = ()  # that were asked for and are not there, or not cleanly


class VqaBatches:
    """An endless stream of pictures with questions. A picture is drawn afresh and met about `REUSE` times in all."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, seed: int, questions: int = 8,
        vae: AutoencoderKL | None = None, drawings: Sequence[SceneImage] = (), drawn: float = DRAWN,
    ) -> None:  # fmt: skip
        self._rng = np.random.default_rng(seed)
        self._vocabulary = tokenizer.get_vocab()
        self._processor = build_image_processor()
        self._questions = questions
        self._vae = vae
        self._drawings, self._drawn = drawings, drawn if drawings else 0.0
        self._pool: list[SceneImage] = []

    def draw(self, count: int, relational: float = 0.6) -> tuple[ChatBatch, list[list[QuestionAnswer]]]:
        """A batch of `count` pictures, and the questions in its rows, a share of them `relational`."""
        drawn = int(self._rng.binomial(count, self._drawn))
        pictures = self._rendered(count - drawn)
        pictures += [self._drawings[i] for i in self._rng.integers(len(self._drawings), size=drawn)] if drawn else []
        asked = [ask(p.placements, self._questions, self._rng, relational, p.missing) for p in pictures]
        pixel_values, grid = equal_patches(self._processor, np.stack([picture.image for picture in pictures]))
        return self._pack(asked, pixel_values, grid), asked

    def _rendered(self, count: int) -> list[SceneImage]:
        fresh = self._through_vae([self._paint() for _ in range(math.ceil(count / REUSE))])
        self._pool = [*fresh, *self._pool][:POOL]
        again = [self._pool[i] for i in self._rng.permutation(len(self._pool))[: count - len(fresh)]]
        return [*fresh, *again, *(self._paint() for _ in range(count - len(fresh) - len(again)))]

    def _paint(self) -> SceneImage:
        placements = scatter(self._rng)
        return SceneImage(placements, degrade(render(placements, self._rng), self._rng))

    def _through_vae(self, pictures: list[SceneImage]) -> list[SceneImage]:
        chosen = [picture for picture in pictures if self._vae and self._rng.random() < DECODED]
        if self._vae is None or not chosen:
            return pictures
        images = decode(self._vae, encode(self._vae, np.stack([picture.image for picture in chosen])))
        decoded = [SceneImage(picture.placements, image) for picture, image in zip(chosen, images, strict=True)]
        kept = {id(picture) for picture in chosen}
        return [picture for picture in pictures if id(picture) not in kept] + decoded

    def ids(self, text: str) -> list[int]:
        """Ids of words separated by blanks."""
        return [self._vocabulary[word] for word in text.split()]

    def _pack(self, asked: list[list[QuestionAnswer]], pixel_values: Tensor, grid: Tensor) -> ChatBatch:
        picture = self.ids("<|im_start|> user <|vision_start|>" + " <|image_pad|>" * GRID**2 + " <|vision_end|>")
        rows = [[self._block(pair) for pair in pairs] for pairs in asked]
        length = len(picture) + max(sum(len(ids) for ids, _ in row) for row in rows)
        ids = np.zeros((len(rows), length), dtype=np.int64)
        labels = np.full_like(ids, -100)
        positions = np.zeros((3, *ids.shape), dtype=np.int64)
        block = np.full_like(ids, -1)
        positions[:, :, : len(picture)] = _picture_positions(len(picture))[:, None]
        ids[:, : len(picture)], block[:, : len(picture)] = picture, 0
        for r, row in enumerate(rows):
            at = len(picture)
            for number, (tokens, answer_at) in enumerate(row, start=1):
                end = at + len(tokens)
                ids[r, at:end], block[r, at:end] = tokens, number
                labels[r, at + answer_at : end] = tokens[answer_at:]
                positions[:, r, at:end] = 3 + GRID + 1 + np.arange(len(tokens))
                at = end
        return ChatBatch(
            torch.from_numpy(ids), torch.from_numpy(labels), torch.from_numpy(positions),
            _block_mask(torch.from_numpy(block)), pixel_values, grid,
        )  # fmt: skip

    def _block(self, pair: QuestionAnswer) -> tuple[list[int], int]:
        """Token ids of one question and answer, and where the answer starts."""
        question = self.ids(f"{pair.question} <|im_end|> <|im_start|> assistant")
        return question + self.ids(f"{pair.answer} <|im_end|>"), len(question)


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Half of the pictures a little blurred or noisy, as decoded latents are."""
    pixels = image.astype(np.float32)
    if rng.random() < 0.35:
        pixels = ndimage.gaussian_filter(pixels, (*[rng.uniform(0.3, 1.0)] * 2, 0))
    if rng.random() < 0.35:
        pixels += rng.normal(0.0, rng.uniform(1.0, 8.0), pixels.shape)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _picture_positions(length: int) -> np.ndarray:
    """M-RoPE positions of the picture's part  # [3, length]: 3 tokens, a GRID x GRID image, 1 token."""
    positions = np.broadcast_to(np.arange(length), (3, length)).copy()
    positions[:, 3:-1] = 3
    positions[1, 3:-1] += np.repeat(np.arange(GRID), GRID)
    positions[2, 3:-1] += np.tile(np.arange(GRID), GRID)
    positions[:, -1] = 3 + GRID
    return positions


def _block_mask(block: Tensor) -> Tensor:
    """Causal attention within a block and to the picture, block 0  # [B, 1, L, L] bool."""
    same = (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == 0)
    return (same & torch.ones(block.shape[1], block.shape[1], dtype=torch.bool).tril())[:, None]
