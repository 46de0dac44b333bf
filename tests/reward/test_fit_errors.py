"""What goes wrong on the workers of a fit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from ray.train import WorkerGroupError

from actors.spatialscore import SpatialScoreConfig
from conf import UserError
from conf.reward import RewardSettings
from pipelines.reward.fit_errors import out_of_memory_explained
from pipelines.reward.job import WorkerJob
from pipelines.reward.locations import PairSource
from pipelines.reward.sampler import PairSampler
from pipelines.reward.train import fit_name


def test_a_full_gpu_is_a_user_error_with_its_first_line_and_the_settings_to_change() -> None:
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation")
    error = WorkerGroupError("Training failed", {0: RuntimeError("NCCL error"), 3: full})
    message = r"2\.00 GiB\.\): set reward\.micro_batch_size=8 \(a pass has 16 pairs of a worker\), set spatialscore\."
    with pytest.raises(UserError, match=message), out_of_memory_explained(RewardSettings(batch_size=32, workers=2)):
        raise error
    single = RewardSettings(batch_size=32, workers=2, micro_batch_size=1)
    message = r"2\.00 GiB\.\): set spatialscore\.gradient_checkpointing=true"
    with pytest.raises(UserError, match=message), out_of_memory_explained(single):
        raise error


def test_another_error_of_a_worker_stays_what_it_is() -> None:
    with pytest.raises(WorkerGroupError), out_of_memory_explained(RewardSettings()):
        raise WorkerGroupError("Training failed", {0: RuntimeError("CUDA error: an illegal memory access")})


def test_a_fit_goes_on_with_gradient_checkpointing_other_passes_and_another_attention() -> None:
    """They change weights by rounding only, and the first two are the fix if memory is short."""
    sampler = PairSampler(PairSource(("pairs",), ("strict",), False), (), 32, 16, 1024, 0)
    config = SpatialScoreConfig("Qwen/Qwen2.5-VL-7B-Instruct", 200704)
    job = WorkerJob(RewardSettings(), config, False, False, sampler, "/shared/run")
    other = replace(job, gradient_checkpointing=True, config=replace(config, attention="flash_attention_2"))
    assert fit_name(other) == fit_name(job)
    assert fit_name(replace(job, settings=replace(job.settings, micro_batch_size=1))) == fit_name(job)
    assert fit_name(replace(job, config=replace(config, lora_rank=64))) != fit_name(job)
    assert fit_name(replace(job, settings=replace(job.settings, lr=1e-4))) != fit_name(job)
