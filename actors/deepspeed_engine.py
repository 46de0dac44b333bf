"""AdamW over several ranks with DeepSpeed ZeRO. The only module that imports DeepSpeed.

`DeepSpeedEngine` takes gradients that were accumulated elsewhere and shards the optimizer; `DeepSpeedModel` wraps a
whole model, whose frozen weights ZeRO-3 shards too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_fp32_param,
    safe_set_full_optimizer_state,
)
from torch import nn

from actors.engine import OptimizerSettings, StepResult, adamw


class _Adapter(nn.Module):
    """Copies of the trained parameters. DeepSpeed sees these alone, never the frozen base."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.copies = nn.ParameterList([nn.Parameter(parameter.detach().clone()) for parameter in parameters])

    def forward(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """sum <parameter, gradient>: the linear loss whose gradient is exactly what was accumulated."""
        return torch.stack([(copy * grad).sum() for copy, grad in zip(self.copies, gradients, strict=True)]).sum()


class DeepSpeedEngine:
    """ZeRO stage 1 or 2 over the ranks of the process group, which must have been initialised (gloo or nccl).

    Each rank accumulates with plain backward passes, as many as it likes; `step` hands DeepSpeed one linear loss with
    that gradient. Ranks therefore need not agree on the number of backward passes, only on the number of steps.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], settings: OptimizerSettings, zero_stage: int) -> None:
        if not dist.is_initialized():
            raise RuntimeError("DeepSpeedEngine needs torch.distributed.init_process_group first")
        if zero_stage not in (1, 2):
            raise ValueError(f"zero_stage must be 1 or 2, got {zero_stage}: the frozen base is not sharded")
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists; Ray shows an actor only its own GPU
        self.ranks = dist.get_world_size()
        self.parameters = list(parameters)
        self.adapter = _Adapter(self.parameters)
        self.engine, zero, _, _ = deepspeed.initialize(
            model=self.adapter,
            optimizer=adamw(list(self.adapter.parameters()), settings),
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": settings.max_grad_norm,
                "zero_optimization": {"stage": zero_stage, "overlap_comm": False},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 2**31,
            },
        )
        self.zero: Any = zero  # its own `.optimizer` is the AdamW over this rank's shard

    def step(self, lr: float) -> StepResult:
        """See Engine. If any rank's gradient is not finite, or none has one, no rank steps."""
        device = self.parameters[0].device
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        finite = all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        present = any(p.grad is not None for p in self.parameters)
        verdict = torch.tensor([float(not finite), float(present)], device=device)
        dist.all_reduce(verdict)
        for parameter in self.parameters:
            parameter.grad = None
        if verdict[0] > 0 or verdict[1] == 0:
            return StepResult(math.inf if verdict[0] > 0 else math.nan, applied=False)
        for group in self.zero.param_groups:
            group["lr"] = lr
        self.engine.backward(self.engine(gradients))
        self.engine.step()
        with torch.no_grad():
            for parameter, copy in zip(self.parameters, self.adapter.copies, strict=True):
                parameter.copy_(copy)
        return StepResult(float(self.engine.get_global_grad_norm() or 0.0), applied=True)

    def state_dict(self) -> dict[str, Any]:
        """This rank's shard of AdamW's moments."""
        return self.zero.optimizer.state_dict()

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for parameter, copy in zip(self.parameters, self.adapter.copies, strict=True):
            copy.copy_(parameter)
        self.zero.refresh_fp32_params()
        self.zero.optimizer.load_state_dict(state)


class DeepSpeedModel:
    """A ModelEngine under ZeRO 1, 2 or 3: its weights and state fit any number of ranks."""

    def __init__(self, model: nn.Module, settings: OptimizerSettings, zero_stage: int, keep_whole: int) -> None:
        """`keep_whole`: ZeRO-3 does not shard parameters of fewer elements. Raises RuntimeError without a group."""
        if not dist.is_initialized():
            raise RuntimeError("DeepSpeedModel needs torch.distributed.init_process_group first")
        os.environ.setdefault("LOCAL_RANK", "0")
        self.ranks = dist.get_world_size()
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        zero = {"stage": zero_stage, "overlap_comm": False, "stage3_param_persistence_threshold": keep_whole}
        self.engine, optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=adamw(self.parameters, settings),
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": settings.max_grad_norm,
                "zero_optimization": zero,
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 2**31,
            },
        )
        self.zero: Any = optimizer

    def __call__(self, *inputs: Any) -> Any:
        return self.engine(*inputs)

    def backward(self, loss: torch.Tensor) -> None:
        """See ModelEngine."""
        self.engine.backward(loss)

    def step(self, lr: float) -> StepResult:
        """See ModelEngine. Raises FloatingPointError where the gradient is not finite: the weights are then lost."""
        for group in self.zero.param_groups:
            group["lr"] = lr
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        if not math.isfinite(norm):
            raise FloatingPointError(f"the gradient's norm is {norm}: lower the learning rate, or look at the data")
        return StepResult(norm, applied=True)

    def weights(self) -> list[torch.Tensor]:
        """The trained parameters, whole, on the CPU."""
        return [_whole(safe_get_full_fp32_param(parameter)) for parameter in self.parameters]

    def load_weights(self, weights: Sequence[torch.Tensor]) -> None:
        """Restores what `weights` gave. Raises NotImplementedError under ZeRO-3, which cannot resume yet."""
        if self.engine.zero_optimization_stage() == 3:
            raise NotImplementedError("a run under ZeRO-3 cannot go on from a checkpoint yet: use zero_stage 2")
        for parameter, weight in zip(self.parameters, weights, strict=True):
            safe_set_full_fp32_param(parameter, weight.to(parameter.device))
            parameter.data.copy_(weight)

    def state_dict(self) -> dict[str, Any]:
        """AdamW's moments, whole, and its number of steps."""
        (step, *_) = [int(state["step"]) for state in self.zero.optimizer.state.values()]
        moments = [
            [_whole(safe_get_full_optimizer_state(parameter, key)) for key in _MOMENTS] for parameter in self.parameters
        ]
        return {"step": step, "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what `state_dict` gave."""
        for part in self.zero.single_partition_of_fp32_groups:  # DeepSpeed makes them at the first step only
            if not self.zero.optimizer.state[part]:
                self.zero.optimizer.state[part] = {key: torch.zeros_like(part) for key in _MOMENTS}
        self.zero._lazy_init_hp_params_optimizer_state()  # else it does not find them by parameter
        for parameter, moments in zip(self.parameters, state["moments"], strict=True):
            for key, moment in zip(_MOMENTS, moments, strict=True):
                safe_set_full_optimizer_state(parameter, moment.to(parameter.device), key)
        for own in self.zero.optimizer.state.values():
            own["step"] = torch.tensor(float(state["step"]))


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _whole(value: torch.Tensor | None) -> torch.Tensor:
    assert value is not None, "DeepSpeed holds no such state for a trained parameter"
    return value.detach().cpu().clone()
