"""How the shipped tiny checkpoints of the embedded world are made."""

from __future__ import annotations

from dataclasses import dataclass

from conf.rules import at_least, between, one_of


@dataclass(frozen=True)
class PretrainSettings:
    """`spatialt2i scenes pretrain`: how the shipped tiny checkpoints are made."""

    out: str = "runs/pretrain"
    minutes: float = 90.0  # wall clock for all parts on two cores; divided among them by fixed shares
    seed: int = 0
    workers: int = 2  # data-parallel processes of one thread each
    compile: bool = True  # torch.compile FLUX: needs a C++ compiler and a minute, then a step takes two thirds
    wrong_captions: float = 0.5  # share of captions with a wrong relation, in FLUX's phase `weak`
    from_shipped: str = "none"  # none | flux | vlm: begin with the shipped checkpoints, and train only this one on

    def __post_init__(self) -> None:
        at_least("pretrain.minutes", self.minutes, 0.1)
        at_least("pretrain.workers", self.workers, 1)
        one_of("pretrain.from_shipped", self.from_shipped, ("none", "flux", "vlm"))
        between("pretrain.wrong_captions", self.wrong_captions, 0.0, 1.0)
