"""Peak memory of `reward merge` and of a merged `policy export`, against the estimates by which they refuse to load.

python -m tests.bench.merge_memory

Shallow models at full width with random weights; up to 8 GB of memory and 10 GB of disk.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import torch

from actors.policy.flux import FluxPolicy
from actors.spatialscore import build
from conf import Settings, load
from conf.rules import Dtype
from pipelines.common.host_memory import GB
from pipelines.policy.checkpoint import run_checkpoints
from pipelines.policy.merge import merge_memory as pipeline_memory
from pipelines.reward.merge import merge_memory
from pipelines.reward.served_model import model_config
from tests.support.full_width_flux import full_width_pipeline
from tests.support.full_width_vlm import save_full_width_vlm
from tests.support.peak_memory import Peak, peak_memory
from tests.support.policy_checkpoint import write_checkpoint_of
from tests.support.tiny_flux import perturb_lora
from tests.support.tiny_reward import perturb_spatialscore

DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def _run(folder: Path, *overrides: str) -> Settings:
    return load("flux_dev", [f"run_dir={folder}", "spatialscore.lora_rank=8", "flux.lora_rank=8", *overrides])


def reward_merge(folder: Path) -> None:
    """Two layers of Qwen2.5-VL-7B with its embedding. Images are small, which saves minutes and 0.1 GB."""
    save_full_width_vlm(folder / "vlm", layers=2)
    settings = _run(folder, f"spatialscore.model={folder / 'vlm'}", "spatialscore.pixels=12544")
    model = build(model_config(settings))
    perturb_spatialscore(model, 0.01)
    model.save_pretrained(folder / "reward" / "model")
    del model
    for dtype in DTYPES:
        words = ["reward", "merge", "flux_dev", f"run_dir={folder}", f"merge.dtype={dtype}", "merge.max_loss=1"]
        _row("reward merge", dtype, merge_memory(str(folder / "reward" / "model"), dtype), peak_memory(words))


def merged_export(run_dir: Path) -> None:
    """Two double and four single blocks of FLUX.1-dev."""
    base = run_dir / "flux"
    pipeline = full_width_pipeline(torch.bfloat16, 2, 4)
    pipeline.save_pretrained(base)
    settings = _run(run_dir, f"flux.model={base}")
    policy = FluxPolicy(pipeline, settings.flux)
    perturb_lora(policy, 0.01)
    buffer = io.BytesIO()
    torch.save({"ema": policy.lora_state(), "lora": policy.lora_state()}, buffer)
    del pipeline, policy
    write_checkpoint_of(run_checkpoints(settings), 7, buffer.getvalue())
    for dtype in DTYPES:
        words = ["policy", "export", "flux_dev", f"run_dir={run_dir}", f"flux.model={base}", "flux.lora_rank=8"]
        peak = peak_memory([*words, "export.merged=true", f"merge.dtype={dtype}", "merge.max_loss=1"])
        _row("policy export", dtype, pipeline_memory(base, "bfloat16", dtype), peak)


def _row(command: str, dtype: Dtype, estimate: int, peak: Peak) -> None:
    """In bfloat16 the weights that no LoRA changes stay pages of files. They count, because they are used."""
    measured = peak.resident if dtype == "bfloat16" else peak.own
    print(f"{command:<14}{dtype:>9}{measured / GB:>7.2f} GB{estimate / GB:>7.2f} GB  {estimate / measured - 1:+.0%}")


if __name__ == "__main__":
    print(f"{'command':<14}{'dtype':>9}{'peak':>10}{'estimate':>10}", flush=True)
    for measure in (reward_merge, merged_export):
        with tempfile.TemporaryDirectory() as scratch:
            measure(Path(scratch))
