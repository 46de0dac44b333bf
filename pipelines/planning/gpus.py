"""Types of GPUs: peak rates, memory, and the share of the peaks that real kernels reach."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from conf import UserError
from conf.plan import GPU_NAMES, PlanSettings
from conf.yaml_file import read_yaml

MATMUL_EFFICIENCY, ATTENTION_EFFICIENCY, TRAFFIC_EFFICIENCY = 0.75, 0.60, 0.80
"""Share of a data sheet's peak that large matrix products, flash attention, and copying kernels reach."""
GIB = 2**30
USABLE_MEMORY = 0.92
"""Share of a GPU's memory for tensors. The CUDA context, cuBLAS, NCCL and fragmentation need the rest."""


@dataclass(frozen=True)
class GpuType:
    """One type of GPU, by its data sheet. Rates are dense, without sparsity."""

    name: str
    bf16_tflops: float
    """Tensor cores in bfloat16 with float32 accumulation, TFLOP/s."""
    fp32_tflops: float
    """float32 without TF32, TFLOP/s."""
    bandwidth_tb_s: float
    """Memory bandwidth in 10^12 bytes a second."""
    memory_gib: float
    """Memory in GiB. The data sheets' GB of memory are about GiB."""

    @property
    def usable_gib(self) -> float:
        """GiB for tensors."""
        return self.memory_gib * USABLE_MEMORY


_TYPES = (
    GpuType("H20", 148, 44, 4.0, 96),  # NVIDIA H20 (HGX) data sheet: 96 GB HBM3
    GpuType("H100", 989, 67, 3.35, 80),  # NVIDIA H100 data sheet, SXM5: 80 GB HBM3
    GpuType("H200", 989, 67, 4.8, 140),  # NVIDIA H200 data sheet, SXM: 141 GB HBM3e
    GpuType("A100", 312, 19.5, 2.039, 80),  # NVIDIA A100 data sheet, SXM4 80 GB HBM2e
    GpuType("B200", 2250, 75, 7.7, 180),  # NVIDIA HGX B200 data sheet, a GPU: 180 GB HBM3e
    GpuType("L40S", 362, 91.6, 0.864, 48),  # NVIDIA L40S data sheet: 48 GB GDDR6 with ECC
    GpuType("RTX4090", 165.2, 82.6, 1.008, 24),  # NVIDIA Ada GPU architecture whitepaper, appendix A: 24 GB GDDR6X
)
GPU_TYPES = {gpu.name: gpu for gpu in _TYPES}
"""Name -> type."""


def gpu_type(settings: PlanSettings) -> GpuType:
    """The GPU that `plan.gpu` names, or that of the file `plan.gpu_file`. Raises UserError for a file that is wrong."""
    return _read(settings.gpu_file) if settings.gpu_file else GPU_TYPES[settings.gpu]


def recognize(device_name: str) -> GpuType | None:
    """The type of a device by the name that CUDA gives, e.g. "NVIDIA H100 80GB HBM3"; None for another type."""
    words = device_name.upper().replace("RTX 4090", "RTX4090").replace("-", " ").split()
    if {"PCIE", "NVL", "40G", "40GB"} & set(words):  # other rates, or less memory, than the modules in the table
        return None
    return next((GPU_TYPES[name] for name in GPU_NAMES if name in words), None)


def _read(file: str) -> GpuType:
    """A type from a YAML file with the fields of GpuType."""
    names = [field.name for field in fields(GpuType)]
    if not Path(file).is_file():
        raise UserError(f"plan.gpu_file={file}: there is no such file: write one with the keys {', '.join(names)}")
    values = read_yaml(Path(file), f"plan.gpu_file={file}")
    if set(values) != set(names):
        wrong = sorted(set(values) ^ set(names))
        raise UserError(f"plan.gpu_file={file} must have exactly the keys {', '.join(names)}; wrong: {wrong[0]}")
    rates = {name: values[name] for name in names[1:]}
    for name, value in rates.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"plan.gpu_file={file}: {name} must be a number above 0, got {value!r}")
    return GpuType(str(values["name"]), **{name: float(value) for name, value in rates.items()})
