"""How the shipped tiny checkpoints of the embedded world are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.rules import Section, at_least, between


@dataclass(frozen=True)
class PretrainSettings(Section):
    """`spatialt2i scenes pretrain`: training of the tiny checkpoints."""

    section: ClassVar[str] = "pretrain"

    out: str = "runs/pretrain"
    """Folder of the result."""

    minutes: float = field(default=90.0, metadata=at_least(0.1))
    """Wall-clock minutes for all parts on two cores, divided among them in fixed shares."""

    seed: int = field(default=0, metadata=at_least(0))
    """Seed of initialization and data."""

    workers: int = field(default=2, metadata=at_least(1))
    """Data-parallel processes of one thread each."""

    compile: bool = True
    """Use torch.compile for FLUX. It needs a C++ compiler and a minute, and saves a third of the time of a step."""

    mislabelled_fraction: float = field(default=0.5, metadata=between(0, 1))
    """Fraction of captions with a wrong relation in FLUX's phase mislabelled."""

    from_shipped: Literal["none", "flux", "vlm"] = "none"
    """Start from the shipped checkpoints and train only this one further. none: train all from scratch."""
