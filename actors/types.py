"""The records that cross processes. They are frozen, and samples carry the policy version that made them.

Axes: T denoise steps, S image tokens, C packed latent channels, L text tokens, D embedding width, B images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:  # prompts and relations are checked before torch is needed
    import torch


@dataclass(frozen=True)
class Relation:
    """`subject` stands in `relation` to `object`, e.g. ("red circle", "left of", "blue square")."""

    subject: str
    relation: str
    object: str


def objects_of(relations: Sequence[Relation]) -> list[str]:
    """Returns the objects that the relations name, each once, in order of mention."""
    return list(dict.fromkeys(name for relation in relations for name in (relation.subject, relation.object)))


@dataclass(frozen=True)
class Prompt:
    """One text prompt. `relations` may be empty. `metadata` holds strings that stages pass on unchanged."""

    id: str
    text: str
    relations: tuple[Relation, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Conditioning:
    """The text encoders' output for one prompt, computed once and shared by its group."""

    prompt_embeds: torch.Tensor  # [L, D] hidden states of the text encoders
    pooled_embeds: torch.Tensor | None = None  # [D'] CLIP's pooled output; None for families without CLIP
    negative_embeds: torch.Tensor | None = None  # [L', D] of the text to guide away from; None without such guidance
    negative_pooled: torch.Tensor | None = None  # [D'] of that text

    def to(self, device: torch.device) -> Self:
        """The same conditioning on `device`."""
        held = {name: getattr(self, name) for name in ("pooled_embeds", "negative_embeds", "negative_pooled")}
        moved = {name: value.to(device) for name, value in held.items() if value is not None}
        return replace(self, prompt_embeds=self.prompt_embeds.to(device), **moved)


@dataclass(frozen=True)
class Trajectory:
    """One sample from noise to latents. It is a Ray object of its own, so the learner pulls only the kept 2k.

    With the objective nft it is only its end: T = 0, and `latents` holds the final latents alone.
    """

    latents: torch.Tensor  # [T+1, S, C] float32; latents[0] is the noise
    log_probs: torch.Tensor  # [T] float32, mean over elements; 0 for a denoise step without noise
    sigmas: torch.Tensor  # [T+1] float32, falling from 1 to 0
    seed: int
    batch_size: int  # rows of the forward passes that made it; a replay uses the same shape
    shared_prefix: int  # latents[:shared_prefix] are equal for the whole group; 0 if each image has its own noise
    policy_version: int
    train_steps: tuple[int, ...]  # the K denoise steps that are trained
    means: torch.Tensor | None  # [K, S, C] float32, means of the transitions; None unless the ratio needs them


@dataclass(frozen=True)
class Scores:
    """A Gaussian per image, as SpatialScore predicts it. The score is `mu`."""

    mu: np.ndarray  # [B] float32
    sigma: np.ndarray  # [B] float32
    parts: Mapping[str, Scores] = field(default_factory=dict[str, "Scores"])  # of a sum: the scores of each reward
    retries: int = 0  # requests to a service that were repeated for them

    @classmethod
    def deterministic(cls, mu: Sequence[float]) -> Self:
        """Makes the scores of a reward that predicts no uncertainty: sigma is 0."""
        return cls(np.array(mu, dtype=np.float32), np.zeros(len(mu), dtype=np.float32))


@dataclass(frozen=True)
class PolicyWeights:
    """The LoRA of one policy version, as the learner sends it to the rollout actors."""

    version: int
    lora: Mapping[str, np.ndarray]  # diffusers adapter key -> weight


@dataclass(frozen=True)
class SampleReport:
    """The small first return of a sampling call. Once it is there, the other returns exist."""

    policy_version: int
    images: int
    seconds: float
    """Time of the call's own work, without waiting for another call of the same process."""
