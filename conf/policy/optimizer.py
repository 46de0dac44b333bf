"""`policy.optimizer`: AdamW, its learning rate and the moving average of the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from conf.errors import SettingsError
from conf.rules import Section, above, at_least, between


@dataclass(frozen=True)
class PolicyOptimizerSettings(Section):
    """AdamW on the LoRA weights of the policy."""

    section: ClassVar[str] = "policy.optimizer"

    lr: float = field(default=3e-3, metadata=above(0))
    """Learning rate after the warm-up. Paper: 3e-4 for FLUX.1-dev."""

    warmup_iterations: int = field(default=8, metadata=at_least(1))
    """Iterations over which the learning rate rises to lr. 1: no warm-up."""

    final_lr_fraction: float = 0.1
    """The learning rate decays linearly over policy.iterations to this fraction of lr. 1: constant."""

    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay rates of the first and the second moment. Each in [0, 1)."""

    weight_decay: float = field(default=1e-4, metadata=at_least(0))
    """AdamW's weight decay. Flow-GRPO: 1e-4."""

    max_grad_norm: float = field(default=1.0, metadata=above(0))
    """The gradient is clipped to this norm. Flow-GRPO: 1."""

    ema_decay: float = field(default=0.95, metadata=between(0, 1))
    """Decay of the moving average of the LoRA weights, per iteration."""

    steps_per_iteration: int = field(default=2, metadata=at_least(1))
    """Optimizer steps of an iteration. It must divide policy.prompts_per_iteration."""

    max_empty_steps: int = field(default=10, metadata=at_least(1))
    """Stop the run after this many optimizer steps in a row without a usable gradient (none, or not finite)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise SettingsError(
                f"policy.optimizer.betas must both lie in [0, 1), got {list(self.betas)}: use e.g. [0.9, 0.99]"
            )
