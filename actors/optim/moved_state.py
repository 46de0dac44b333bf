"""The optimizer's state of a run that goes on with other ranks or another engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from actors.optim.moments import gather_moments
from actors.optim.torch_engine import Engine


@dataclass(frozen=True)
class MovedState:
    """A state for `load_state_dict` of an engine."""

    state: Mapping[str, Any]
    note: str
    """What happened to it, if it is not the very state that was saved; else ""."""


def move_state(
    engine: Engine, mine: Mapping[str, Any] | None, ranks: int, read_all: Callable[[], list[Mapping[str, Any]]]
) -> MovedState:
    """The state with which a rank goes on from a checkpoint that `ranks` ranks wrote.

    `mine`: what the rank of the same number wrote, if there was one. `read_all` reads what all wrote, in order.
    """
    if mine and engine.fits(mine, ranks):
        return MovedState(mine, "")
    states = read_all()
    try:
        moved = engine.state_from(gather_moments(states, engine.parameters))
    except ValueError as error:
        return MovedState(engine.state_from(None), f"dropped, AdamW begins with empty moments: {error}")
    return MovedState(moved, f"moved from {ranks} to {engine.ranks} ranks, exactly")
