"""`plan`: how many GPUs of which type a run is planned for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

from conf.rules import Section, at_least

GpuName = Literal["H20", "H100", "H200", "A100", "B200", "L40S", "RTX4090"]
"""Types of GPUs whose data sheets are known (pipelines/planning/gpus.py). A100 is the one with 80 GB."""
GPU_NAMES: tuple[str, ...] = get_args(GpuName)


@dataclass(frozen=True)
class PlanSettings(Section):
    """`plan`: GPUs, their type, and measurements that replace predictions."""

    section: ClassVar[str] = "plan"

    gpus: int = field(default=0, metadata=at_least(0))
    """GPUs of the whole run. 0: as many as the settings reserve."""

    gpu: GpuName = "H100"
    """Type of the GPUs."""

    gpu_file: str = ""
    """YAML file with the rates of another type: name, bf16_tflops, fp32_tflops, bandwidth_tb_s, memory_gib."""

    calibration: str = ""
    """JSON file that `python -m tests.bench.gpu_policy` wrote: its measurements replace the predictions."""

    output: Literal["text", "json"] = "text"
    """Print a report for people, or one JSON object for programs."""
