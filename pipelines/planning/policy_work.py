"""Counts what sampling and learning do with the policy of a preset, at full size on the meta device.

The policy is the project's own class around the library's transformer, with its real widths. Its blocks of a kind are
alike, so models of one and two blocks of each kind are recorded and the full depth follows exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from actors.dtypes import DTYPES
from actors.policy.base import Policy
from conf.flux import FluxSettings
from pipelines.planning.architectures import PolicyArchitecture
from pipelines.planning.families import ANATOMIES
from pipelines.planning.ops import meta_device, trace
from pipelines.planning.work import Program, Work, blocks, of_depth

ROWS = 8
"""Rows of the recordings. What any other number costs follows."""
TEXT_TOKENS = 160
"""Tokens of a text where it is not padded: a prompt of about a hundred words."""


@dataclass(frozen=True)
class BlockKind:
    """The transformer blocks of one kind."""

    forward: Program
    """A forward pass of one block."""
    kept_bytes: float
    """Activations of one block for the backward pass, a row."""
    input_bytes: float
    """What a checkpointed block keeps instead, a row."""


@dataclass(frozen=True)
class PolicyWork:
    """What one model costs. Programs take rows, i.e. images in one forward pass."""

    forward: Program
    """A forward pass with the LoRA, without gradient."""
    base_forward: Program
    """The same without the LoRA: the reference of the KL term."""
    training: Program
    """Forward and backward pass, without checkpointing."""
    decoding: Program
    """The VAE's decoder."""
    encoder_parameters: float
    vae_parameters: float
    transformer_parameters: float
    """With buffers."""
    lora_parameters: float
    text_tokens: int
    latent_elements: int
    """Elements of one image's latent, S x C."""
    kinds: tuple[BlockKind, ...]
    order: tuple[int, ...]
    """The kind of each block, in the order of execution."""
    other_kept_bytes: float
    """Activations outside the blocks for the backward pass, a row."""
    backward_bytes: float
    """Temporary storage of the backward pass beside the kept activations, a row."""
    forward_bytes: float
    """Largest storage of a forward pass without gradient, a row."""
    decoding_bytes: float
    """Largest storage of decoding one image."""

    def training_with(self, checkpoint_every: int) -> Program:
        """Forward and backward pass, with `flux.checkpoint_every`: those blocks are computed again."""
        program = self.training
        for kind, number in self._checkpointed(checkpoint_every).items():
            program += self.kinds[kind].forward * number
        return program

    def activation_bytes(self, checkpoint_every: int) -> float:
        """Largest storage of a training row beside weights: kept activations, one block computed again, temporaries."""
        chosen = self._checkpointed(checkpoint_every)
        kept = sum(self.kinds[kind].kept_bytes for kind in self.order)
        kept += sum((self.kinds[k].input_bytes - self.kinds[k].kept_bytes) * number for k, number in chosen.items())
        again = max((self.kinds[kind].kept_bytes for kind in chosen), default=0.0)
        return self.other_kept_bytes + kept + again + self.backward_bytes

    def _checkpointed(self, every: int) -> Counter[int]:
        """Kind -> number of blocks that are computed again."""
        return Counter(self.order[::every] if every else ())


def count_policy(architecture: PolicyArchitecture, flux: FluxSettings) -> PolicyWork:
    """Records the policy of these settings."""
    depths = ANATOMIES[architecture.family].block_counts(architecture.transformer)
    ones = [1] * len(depths)
    deeper = [[1 + (kind == longer) for kind in range(len(ones))] for longer in range(len(ones))]
    models = [meta_policy(architecture, flux, counts) for counts in (ones, *deeper)]
    trained = [trace(partial(forward_pass, policy), backward=True) for policy in models]
    based = [trace(partial(_base_forward, policy), backward=False) for policy in models]
    forward = [Work.of(each, ROWS, flux.compile, forward=True) for each in trained]
    training, base = ([Work.of(each, ROWS, flux.compile) for each in traces] for traces in (trained, based))
    first = models[0]
    sampled = trace(partial(forward_pass, first), backward=False)
    decoded = trace(partial(_decode, first), backward=False)
    parameters = [_num_weights(policy.transformer) for policy in models]
    lora = [sum(p.numel() for p in policy.trainable().values()) for policy in models]
    width = getattr(first.transformer, "inner_dim", None) or first.transformer.dim
    input_bytes = float((first.image_tokens + _text_tokens(first)) * width * first.dtype.itemsize)
    return PolicyWork(
        forward=of_depth(forward[0], forward[1:], depths),
        base_forward=of_depth(base[0], base[1:], depths),
        training=of_depth(training[0], training[1:], depths),
        decoding=Program(((1.0, Work.of(decoded, 1)),)),
        encoder_parameters=architecture.encoder_parameters,
        vae_parameters=sum(p.numel() for p in first.pipeline.vae.parameters()),
        transformer_parameters=_at_depth(parameters, depths) - _at_depth(lora, depths),
        lora_parameters=_at_depth(lora, depths),
        text_tokens=_text_tokens(first),
        latent_elements=first.image_tokens * first.channels,
        kinds=tuple(
            BlockKind(blocks(forward[0], longer, 1.0), (kept.kept - trained[0].kept) / ROWS, input_bytes)
            for longer, kept in zip(forward[1:], trained[1:], strict=True)
        ),
        order=tuple(kind for kind, depth in enumerate(depths) for _ in range(depth)),
        other_kept_bytes=(trained[0].kept - sum(longer.kept - trained[0].kept for longer in trained[1:])) / ROWS,
        backward_bytes=max(each.peak - each.kept for each in trained) / ROWS,
        forward_bytes=sampled.peak / ROWS,
        decoding_bytes=decoded.peak,
    )


def meta_policy(
    architecture: PolicyArchitecture, flux: FluxSettings, depths: Sequence[int], checkpoint_every: int = 0
) -> Policy:
    """The policy with these numbers of blocks, without weights. What compiling fuses is added to the counts."""
    anatomy = ANATOMIES[architecture.family]
    pipeline_class: Any = anatomy.policy.pipeline_class
    with meta_device(DTYPES[flux.dtype]):
        transformer = anatomy.transformer.from_config(anatomy.of_depth(architecture.transformer, depths))
        vae = anatomy.vae.from_config(dict(architecture.vae))
    omitted = (*anatomy.policy.encoders, *anatomy.policy.inference_only_components)
    pipeline = pipeline_class(
        **dict.fromkeys(name for name in omitted if name != "vae"),
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    )
    for module in (transformer, vae):
        module.requires_grad_(False)
    return anatomy.policy(pipeline, replace(flux, checkpoint_every=checkpoint_every, compile=False))


def forward_pass(policy: Policy) -> torch.Tensor:
    """One forward pass of ROWS rows. Its inputs are made here, because storages from outside count as weights."""
    meta = torch.device("meta")
    latents = torch.empty(ROWS, policy.image_tokens, policy.channels, device=meta)
    s = torch.empty(ROWS, device=meta)
    conditioning = ANATOMIES[policy.pipeline_class.__name__].conditioning(policy, _text_tokens(policy))
    return policy.velocity(latents, s, policy.batch_conditioning([conditioning] * ROWS))


def _base_forward(policy: Policy) -> torch.Tensor:
    with policy.base():
        return forward_pass(policy)


def _text_tokens(policy: Policy) -> int:
    return policy.text_tokens(policy.settings, TEXT_TOKENS)


def _decode(policy: Policy) -> torch.Tensor:
    latents = torch.empty(1, policy.image_tokens, policy.channels, dtype=policy.dtype, device="meta")
    return policy.decode_latents(latents)


def _num_weights(module: nn.Module) -> int:
    """Elements of parameters and buffers. Stable Diffusion 3 keeps its table of positions in a buffer."""
    return sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))


def _at_depth(counts: Sequence[int], depths: Sequence[int]) -> int:
    """A number of the full model, from those of the recorded ones."""
    first, *deeper = counts
    return first + sum((depth - 1) * (longer - first) for depth, longer in zip(depths, deeper, strict=True))
