"""AdamW's moments without the layout of an engine, so that a run can go on with other ranks or another engine.

Plain torch keeps the moments of each parameter. ZeRO 1 and 2 keep, on each rank, the moments of an equal slice of all
parameters, which are joined in order and padded at the end. Both hold the same numbers, so moving them is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

ALIGNMENT = 16
"""Bytes to which some versions of DeepSpeed align each parameter."""

KEYS = ("exp_avg", "exp_avg_sq")
"""Names of the first and the second moment in AdamW's state."""


@dataclass(frozen=True)
class Moments:
    """The moments of all parameters, joined in order: each [elements] float32, on the CPU."""

    step: float
    """Optimizer steps made so far."""
    values: Mapping[str, torch.Tensor]
    """Name of `KEYS` -> moment."""


def gather_moments(states: Sequence[Mapping[str, Any]], parameters: Sequence[nn.Parameter]) -> Moments | None:
    """Joins the optimizer states of all ranks of one checkpoint, in the order of the ranks. None: no step was made.

    `parameters`: those that the states belong to. Raises ValueError if the states are no such moments.
    """
    elements = sum(parameter.numel() for parameter in parameters)
    try:
        per_parameter = len(states[0]["param_groups"][0]["params"]) == len(parameters)
        parts = [
            part
            for state in (states[:1] if per_parameter else states)  # plain torch: equal on all ranks
            for _, part in sorted(state["state"].items())
        ]
        if not parts:
            return None
        values = {key: torch.cat([part[key].detach().cpu().flatten() for part in parts]) for key in KEYS}
        step = float(parts[0]["step"])
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no state of AdamW: {type(error).__name__} {error}") from error
    if not per_parameter:
        _require_slices_without_gaps(parameters)
    found = len(values[KEYS[0]])
    padding = found - elements
    if padding < 0 or (per_parameter and padding) or any(value[elements:].any() for value in values.values()):
        raise ValueError(f"it holds the moments of {found} elements, and the LoRA has {elements}")
    return Moments(step, {key: value[:elements] for key, value in values.items()})


def state_of_parameters(moments: Moments, parameters: Sequence[nn.Parameter]) -> dict[int, dict[str, torch.Tensor]]:
    """The `state` of a plain AdamW over `parameters`."""
    sizes = [parameter.numel() for parameter in parameters]
    split = {key: value.split(sizes) for key, value in moments.values.items()}
    return {
        index: {
            "step": torch.tensor(moments.step),
            **{key: split[key][index].view(parameter.shape).clone() for key in KEYS},
        }
        for index, parameter in enumerate(parameters)
    }


def state_of_slice(
    moments: Moments, parameters: Sequence[nn.Parameter], rank: int, size: int
) -> dict[int, dict[str, torch.Tensor]]:
    """The `state` of one ZeRO rank, whose slices of all `parameters` have `size` elements each, padded with zeros.

    Raises ValueError for parameters that DeepSpeed may pad one by one.
    """
    _require_slices_without_gaps(parameters)
    slices: dict[str, torch.Tensor] = {}
    for key, value in moments.values.items():
        part = value[rank * size : (rank + 1) * size]
        slices[key] = torch.cat([part, part.new_zeros(size - len(part))])
    return {0: {"step": torch.tensor(moments.step), **slices}}


def _require_slices_without_gaps(parameters: Sequence[nn.Parameter]) -> None:
    """Raises ValueError if the versions of DeepSpeed may join the parameters differently.

    Some align every parameter to 16 bytes, so there is a gap after one whose size is not a multiple of that.
    """
    sizes = [parameter.numel() * parameter.element_size() for parameter in parameters]
    if odd := next((size for size in sizes[:-1] if size % ALIGNMENT), 0):
        raise ValueError(f"a parameter has {odd} bytes, which are no multiple of {ALIGNMENT}")


def with_options_of(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """A saved state with the options of `optimizer`, because a resumed run may have other betas or another decay."""
    return {"state": state["state"], "param_groups": optimizer.state_dict()["param_groups"]}
