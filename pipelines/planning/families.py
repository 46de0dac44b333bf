"""What the planner must know of each family of text-to-image models to build it without weights.

`Anatomy` names the library's classes and the fields of a transformer's configuration; the policy class says the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)

from actors.policy.base import Policy
from actors.policy.flux import FluxPolicy
from actors.policy.flux2_klein import Flux2KleinPolicy
from actors.policy.qwen_image import QwenImagePolicy
from actors.policy.sd3 import Sd3Policy
from actors.policy.z_image import ZImagePolicy
from actors.types import Conditioning

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Anatomy:
    """The parts of one family of models."""

    policy: type[Policy]
    transformer: Any
    vae: Any
    depths: tuple[str, ...]
    """Fields of the transformer's configuration with its numbers of blocks, one for each kind, in their order.

    A refiner layer of Z-Image is two blocks, one of the image and one of the text.
    """
    text_width: str = "joint_attention_dim"
    """Field with the width of the text encoder's hidden states."""
    pooled_width: str | None = None
    """Field with the width of CLIP's pooled outputs."""
    depths_of: Callable[[Config], list[int]] | None = None
    """The numbers of blocks, if they are no fields of their own."""
    with_depths: Callable[[Config, Sequence[int]], Config] | None = None
    """The inverse of `depths_of`: the configuration with other numbers of blocks."""

    def block_counts(self, config: Config) -> list[int]:
        """The numbers of blocks of the full model, one for each kind."""
        if self.depths_of:
            return self.depths_of(config)
        return [self.value(config, name) for name in self.depths]

    def of_depth(self, config: Config, counts: Sequence[int]) -> Config:
        """The configuration with these numbers of blocks."""
        if self.with_depths:
            return self.with_depths(config, counts)
        return {**config, **dict(zip(self.depths, counts, strict=True))}

    def value(self, config: Config, name: str) -> Any:
        """A field of the configuration, or the class's default."""
        return config[name] if name in config else inspect.signature(self.transformer.__init__).parameters[name].default

    def conditioning(self, policy: Policy, tokens: int) -> Conditioning:
        """The conditioning of a text of `tokens` tokens and of the negative prompt, without values."""
        config, meta = policy.transformer.config, torch.device("meta")

        def embeds() -> torch.Tensor:
            return torch.empty(tokens, config[self.text_width], dtype=policy.dtype, device=meta)

        def pooled() -> torch.Tensor | None:
            width = self.pooled_width and config[self.pooled_width]
            return torch.empty(width, dtype=policy.dtype, device=meta) if width else None

        return Conditioning(embeds(), pooled(), embeds(), pooled())


def _sd3_block_counts(config: Config) -> list[int]:
    """The blocks with a second attention over the image, if there are any, and those without.

    The last block, which makes no text output, is a third kind of which there is always one.
    """
    dual = len(config.get("dual_attention_layers", ()))
    return [dual, config["num_layers"] - dual - 1] if dual else [config["num_layers"] - 1]


def _sd3_of_depth(config: Config, counts: Sequence[int]) -> Config:
    dual = counts[0] if len(counts) > 1 else 0
    return {**config, "num_layers": sum(counts) + 1, "dual_attention_layers": tuple(range(dual))}


ANATOMIES: Mapping[str, Anatomy] = {
    anatomy.policy.pipeline_class.__name__: anatomy
    for anatomy in (
        Anatomy(
            FluxPolicy,
            FluxTransformer2DModel,
            AutoencoderKL,
            ("num_layers", "num_single_layers"),
            pooled_width="pooled_projection_dim",
        ),
        Anatomy(QwenImagePolicy, QwenImageTransformer2DModel, AutoencoderKLQwenImage, ("num_layers",)),
        Anatomy(
            Sd3Policy,
            SD3Transformer2DModel,
            AutoencoderKL,
            (),
            pooled_width="pooled_projection_dim",
            depths_of=_sd3_block_counts,
            with_depths=_sd3_of_depth,
        ),
        Anatomy(
            ZImagePolicy,
            ZImageTransformer2DModel,
            AutoencoderKL,
            ("n_refiner_layers", "n_layers"),
            text_width="cap_feat_dim",
        ),
        Anatomy(Flux2KleinPolicy, Flux2Transformer2DModel, AutoencoderKLFlux2, ("num_layers", "num_single_layers")),
    )
}
"""Class of the pipeline -> anatomy."""
