"""The records that cross processes. Frozen, plain, and stamped with the policy version that made them.

Axes: T denoise steps, S image tokens, C packed latent channels, L text tokens, D embedding width, B images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import torch


@dataclass(frozen=True)
class Relation:
    """`subject` stands in `relation` to `object`, e.g. ("red circle", "left of", "blue square")."""

    subject: str
    relation: str
    object: str


def objects_of(relations: Sequence[Relation]) -> list[str]:
    """The objects that a prompt's relations name, each once, in order."""
    return list(dict.fromkeys(name for relation in relations for name in (relation.subject, relation.object)))


@dataclass(frozen=True)
class Prompt:
    """One text prompt. `relations` may be empty; `metadata` holds strings that a stage wants to carry along."""

    id: str
    text: str
    relations: tuple[Relation, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditioning:
    """What the model is told: computed once a prompt and shared by its whole group."""

    prompt_embeds: torch.Tensor  # [L, D] hidden states of T5 (FLUX) or Qwen2.5-VL (Qwen-Image)
    pooled_embeds: torch.Tensor | None  # [D'] CLIP's pooled output; FLUX alone has one


@dataclass(frozen=True)
class Trajectory:
    """One sample's way from noise to latents. Its own Ray object, so that only the kept 2k travel."""

    latents: torch.Tensor  # [T+1, S, C] float32; latents[0] is the noise
    log_probs: torch.Tensor  # [T] float32, mean over elements; 0 where a step drew no noise
    sigmas: torch.Tensor  # [T+1] float32, falling from 1 to 0
    seed: int
    batch_size: int  # rows of the forward passes that made it, so that a replay can use the same shape
    shared_prefix: (
        int  # latents[:shared] are those of all of its group; 0 where each image began with a noise of its own
    )
    policy_version: int
    train_steps: tuple[int, ...]  # the K denoise steps that are learned from
    means: torch.Tensor | None  # [K, S, C] float32, of the Gaussians they were drawn from; only if the ratio needs it


@dataclass(frozen=True)
class Scores:
    """SpatialScore's Gaussian per image; the score is `mu`."""

    mu: np.ndarray  # [B] float32
    sigma: np.ndarray  # [B] float32

    @classmethod
    def deterministic(cls, mu: Sequence[float]) -> Self:
        """Of a reward that knows no uncertainty: sigma is 0."""
        return cls(np.array(mu, dtype=np.float32), np.zeros(len(mu), dtype=np.float32))


def require_texts(images: Sequence[np.ndarray] | np.ndarray, texts: Sequence[str]) -> None:
    """Raises ValueError unless there is one text an image."""
    if len(images) != len(texts):
        raise ValueError(f"every image needs its text, got {len(images)} images and {len(texts)} texts")


@dataclass(frozen=True)
class PolicyWeights:
    """The LoRA of one policy version, as it travels from the learner to the rollout actors."""

    version: int
    lora: Mapping[str, np.ndarray]  # diffusers adapter key -> weight
