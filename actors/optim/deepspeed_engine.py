"""AdamW over several ranks with DeepSpeed ZeRO. The only module that imports DeepSpeed.

`DeepSpeedEngine` takes gradients that were accumulated elsewhere, and shards the optimizer. `DeepSpeedModel` wraps a
whole model; ZeRO-3 shards its frozen weights too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import (
    safe_get_full_fp32_param,
    safe_get_full_optimizer_state,
    safe_set_full_optimizer_state,
    safe_set_local_optimizer_state,
)
from torch import nn

from actors.optim.build_locks import removing_stale_build_locks
from actors.optim.moments import Moments, state_of_slice, with_options_of
from actors.optim.torch_engine import OptimizerSettings, StepResult, adamw


class _Adapter(nn.Module):
    """Copies of the trained parameters. DeepSpeed gets only these, not the frozen base."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self.copies = nn.ParameterList([nn.Parameter(parameter.detach().clone()) for parameter in parameters])

    def forward(self, gradients: Sequence[torch.Tensor]) -> torch.Tensor:
        """The linear loss sum(parameter * gradient): its gradient is exactly the accumulated one."""
        return torch.stack([(copy * grad).sum() for copy, grad in zip(self.copies, gradients, strict=True)]).sum()


class DeepSpeedEngine:
    """ZeRO stage 1 or 2 over the ranks of the process group, which must have been initialized (gloo or nccl).

    Each rank accumulates with any number of plain backward passes. `step` gives DeepSpeed one linear loss with the
    accumulated gradient. Therefore ranks may differ in the number of backward passes, but not in the number of steps.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], settings: OptimizerSettings, zero_stage: int) -> None:
        if not dist.is_initialized():
            raise RuntimeError("DeepSpeedEngine needs torch.distributed.init_process_group first")
        if zero_stage not in (1, 2):
            raise ValueError(f"zero_stage must be 1 or 2, got {zero_stage}: this engine has only the LoRA")
        self.ranks = dist.get_world_size()
        self.parameters = list(parameters)
        self.adapter = _Adapter(self.parameters)
        optimizer = adamw(list(self.adapter.parameters()), settings)
        # `self.zero.optimizer` is the AdamW over this rank's shard
        self.engine, self.zero = _initialize(self.adapter, optimizer, settings, {"stage": zero_stage})

    def step(self, lr: float) -> StepResult:
        """See Engine. If the gradient of any rank is not finite, or no rank has one, then no rank steps."""
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
        """See Engine: this rank's shard of AdamW's moments."""
        return self.zero.optimizer.state_dict()

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Engine."""
        for parameter, copy in zip(self.parameters, self.adapter.copies, strict=True):
            copy.copy_(parameter)
        self.zero.refresh_fp32_params()
        self.zero.optimizer.load_state_dict(with_options_of(self.zero.optimizer, state))

    def fits(self, state: Mapping[str, Any], ranks: int) -> bool:
        """See Engine."""
        return ranks == self.ranks and len(state["param_groups"][0]["params"]) == 1

    def state_from(self, moments: Moments | None) -> dict[str, Any]:
        """See Engine."""
        (mine,) = self.zero.single_partition_of_fp32_groups
        return {"state": state_of_slice(moments, self.parameters, dist.get_rank(), mine.numel()) if moments else {}}


class DeepSpeedModel:
    """A ModelEngine with ZeRO 1, 2 or 3. Its weights and state fit any number of ranks, and any stage."""

    def __init__(
        self, model: nn.Module, settings: OptimizerSettings, zero_stage: int, param_persistence_threshold: int
    ) -> None:
        """ZeRO-3 does not shard parameters with fewer than `param_persistence_threshold` elements.

        Raises RuntimeError without a process group.
        """
        if not dist.is_initialized():
            raise RuntimeError("DeepSpeedModel needs torch.distributed.init_process_group first")
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        zero = {"stage": zero_stage, "stage3_param_persistence_threshold": param_persistence_threshold}
        self.engine, self.zero = _initialize(model, adamw(self.parameters, settings), settings, zero)

    def __call__(self, *inputs: Any) -> Any:
        """See ModelEngine."""
        return self.engine(*inputs)

    def backward(self, loss: torch.Tensor, *, last: bool = True) -> None:
        """See ModelEngine. ZeRO-2 and 3 reduce the gradients of every pass, and add up each rank's shard of them."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss)

    def step(self, lr: float) -> StepResult:
        """See ModelEngine. If the gradient of any rank is not finite, no rank steps."""
        for group in self.zero.param_groups:
            group["lr"] = lr
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm() or 0.0)
        return StepResult(norm, applied=math.isfinite(norm))

    def weights(self) -> list[torch.Tensor]:
        """See ModelEngine."""
        return [_cpu_copy(safe_get_full_fp32_param(parameter)) for parameter in self.parameters]

    def state_dict(self) -> dict[str, Any]:
        """See ModelEngine: the number of steps, and AdamW's moments of each parameter."""
        step = int(next(iter(self.zero.optimizer.state.values()))["step"])
        moments = [
            [_cpu_copy(safe_get_full_optimizer_state(parameter, key)) for key in _MOMENTS]
            for parameter in self.parameters
        ]
        return {"step": step, "moments": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ModelEngine."""
        sharded = self.engine.zero_optimization_stage() == 3
        flat = self.zero.fp32_partitioned_groups_flat if sharded else self.zero.single_partition_of_fp32_groups
        for part in flat:  # DeepSpeed itself creates their state at the first step
            moments = {key: torch.zeros_like(part) for key in _MOMENTS}
            self.zero.optimizer.state[part] = {"step": torch.tensor(float(state["step"])), **moments}
        if not sharded:
            self.zero._lazy_init_hp_params_optimizer_state()  # otherwise the state is not found by parameter
        for parameter, moments in zip(self.parameters, state["moments"], strict=True):
            for key, moment in zip(_MOMENTS, moments, strict=True):
                if sharded:
                    safe_set_local_optimizer_state(parameter, _shard(moment, parameter), key)
                else:
                    safe_set_full_optimizer_state(parameter, moment.to(parameter.device), key)


_MOMENTS = ("exp_avg", "exp_avg_sq")


def _initialize(
    model: nn.Module, optimizer: torch.optim.Optimizer, settings: OptimizerSettings, zero: dict[str, Any]
) -> tuple[Any, Any]:
    """DeepSpeed's engine and its ZeRO optimizer: the caller adds up gradients, in the dtypes of the parameters."""
    os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed needs it; Ray makes only its own GPU visible to an actor
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    with removing_stale_build_locks():
        engine, zero_optimizer, _, _ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            dist_init_required=False,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": 1,
                "gradient_clipping": settings.max_grad_norm,
                # One bucket for all gradients: DeepSpeed's own size reserves 2 GB, whatever the size of the gradients.
                "zero_optimization": {"overlap_comm": False, "reduce_bucket_size": trained, **zero},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": 2**31,
            },
        )
    return engine, zero_optimizer


def _cpu_copy(value: torch.Tensor | None) -> torch.Tensor:
    assert value is not None, "DeepSpeed has no such state for a trained parameter"
    return value.detach().cpu().clone()


def _shard(full: torch.Tensor, parameter: Any) -> torch.Tensor:
    """This rank's part of a tensor that ZeRO-3 splits into equal parts; the last part is padded."""
    size = parameter.ds_tensor.numel()
    padded = full.new_zeros(size * dist.get_world_size())
    padded[: full.numel()] = full.flatten()
    return padded[size * dist.get_rank() :][:size].to(parameter.ds_tensor.device)
