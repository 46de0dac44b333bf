"""Activation checkpointing of some blocks of a transformer.

A checkpointed block keeps only its input for the backward pass, and is computed again there. Each block that is not
checkpointed saves that second computation and costs the memory of its activations.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def repeated_blocks(transformer: Any) -> list[nn.Module]:
    """The transformer blocks of a diffusers model, in module order."""
    names = transformer._repeated_blocks or transformer._no_split_modules  # Stable Diffusion 3 names only the second
    return [module for module in transformer.modules() if type(module).__name__ in names]


def checkpoint_blocks(transformer: Any, every: int) -> None:
    """Checkpoints every n-th repeated block of a diffusers transformer: 1 all of them, 0 none."""
    if not every:
        return
    chosen = {id(block) for block in repeated_blocks(transformer)[::every]}

    def run(block: nn.Module, *inputs: Any) -> Any:
        if id(block) in chosen:
            return checkpoint(block.__call__, *inputs, use_reentrant=False)
        return block(*inputs)

    transformer.enable_gradient_checkpointing(run)


def compile_blocks(transformer: Any) -> None:
    """Compiles the repeated blocks in place, with the roundings of eager mode.

    A fused kernel keeps in float32 what eager mode rounds to bfloat16 between two operations. The sampler's graph and
    the learner's graph are fused differently, so without this the same weights give different log-probabilities.
    """
    inductor: Any = import_module("torch._inductor.config")  # here, because it is slow to import
    inductor.emulate_precision_casts = True
    for block in repeated_blocks(transformer):
        block.compile()
