"""What a merge needs of host memory: the estimate against the commands themselves, and the refusal before loading."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from actors.files import digest, write_file
from actors.policy.flux import FluxPolicy
from actors.policy.lora import lora_parameters
from actors.spatialscore import build
from conf import Settings, UserError, load
from conf.rules import Dtype
from pipelines.common.host_memory import StoredWeights, available_memory, require_memory, stored_weights
from pipelines.policy.checkpoint import run_checkpoints
from pipelines.policy.merge import merge_memory as pipeline_memory
from pipelines.reward.merge import merge_memory, write_merged
from pipelines.reward.served_model import model_config
from tests.support.full_width_flux import full_width_pipeline
from tests.support.full_width_vlm import save_full_width_vlm
from tests.support.peak_memory import Peak, peak_memory
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

GB = 10**9
MOST_ABOVE = 1.15
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


def _machine(root: Path, cgroup: str) -> Path:
    (root / "self").mkdir(parents=True)
    (root / "meminfo").write_text("MemTotal: 99 kB\nMemAvailable:    8000 kB\n")
    (root / "self" / "status").write_text("VmRSS:\t 900 kB\nRssAnon:\t    500 kB\n")
    (root / "self" / "cgroup").write_text(cgroup)
    return root


def _group(folder: Path, limit: str, usage: int, version: int = 2) -> None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    prefix = "" if version == 2 else "total_"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    files = f"{prefix}inactive_file {20 * 1024}\n{prefix}active_file {10 * 1024}\n"
    (folder / "memory.stat").write_text(f"anon 7\n{files}inactive_anon 9999999\n")


def test_the_tightest_limit_counts_and_pages_of_files_are_free(tmp_path: Path) -> None:
    proc, groups = _machine(tmp_path / "proc", "0::/job/step\n"), tmp_path / "groups"
    assert available_memory(proc, groups) == 8500 * 1024  # the machine's, and what the process holds already
    _group(groups / "job" / "step", "max", 4000 * 1024)
    assert available_memory(proc, groups) == 8500 * 1024
    _group(groups / "job", str(6000 * 1024), 5000 * 1024)  # the limit of a group holds for those inside it
    assert available_memory(proc, groups) == (500 + 1000 + 30) * 1024
    old = _machine(tmp_path / "old", "3:cpuset:/\n4:memory:/job\n1:name=systemd:/\n")
    _group(groups / "memory" / "job", str(2000 * 1024), 500 * 1024, version=1)
    assert available_memory(old, groups) == (500 + 1500 + 30) * 1024
    assert available_memory(tmp_path / "none", groups) is None


def test_the_weights_are_those_that_the_library_loads(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3, 4), "lm_head.b": torch.zeros(50)}, tmp_path / "part-1.safetensors")
    save_file({"c": torch.zeros(5, 6, dtype=torch.bfloat16)}, tmp_path / "part-2.safetensors")
    save_file({"d": torch.zeros(999)}, tmp_path / "other.safetensors")
    index = {"weight_map": {"a": "part-1.safetensors", "lm_head.b": "part-1.safetensors", "c": "part-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert stored_weights(tmp_path) == StoredWeights(12 + 50 + 30, 50, frozenset({"F32", "BF16"}))
    assert stored_weights(tmp_path, without=["lm_head."]) == StoredWeights(42, 30, frozenset({"F32", "BF16"}))
    assert stored_weights(tmp_path / "none") == StoredWeights(0, 0, frozenset())


def test_a_merge_that_does_not_fit_is_refused_before_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tiny_vlm(tmp_path / "vlm")
    model = tiny_spatialscore(tmp_path / "vlm")
    model.save_pretrained(tmp_path / "reward" / "model")
    (tmp_path / "vlm" / "config.json").rename(tmp_path / "vlm" / "absent.json")  # loading would fail
    monkeypatch.setattr("pipelines.common.host_memory.available_memory", lambda: GB // 2)
    settings = load("scenes", [f"run_dir={tmp_path}"])
    with pytest.raises(
        UserError, match=r"needs 0\.9 GB of memory, but this process can have 0\.5 GB: run it on a mach"
    ):
        write_merged(settings)
    with pytest.raises(UserError, match="a machine with more memory, or lower it"):
        require_memory("this", GB, "lower it")
    require_memory("this", GB // 3, "lower it")


def _run(folder: Path, *overrides: str) -> Settings:
    return load("flux_dev", [f"run_dir={folder}", "spatialscore.lora_rank=8", "flux.lora_rank=8", *overrides])


@pytest.mark.slow
def test_the_estimate_is_a_little_above_the_peak_of_reward_merge(tmp_path: Path) -> None:
    """Two layers of Qwen2.5-VL-7B with its embedding. Images are small, which saves minutes and 0.1 GB."""
    save_full_width_vlm(tmp_path / "vlm", layers=2)
    settings = _run(tmp_path, f"spatialscore.model={tmp_path / 'vlm'}", "spatialscore.pixels=12544")
    model = build(model_config(settings))
    _perturb(list(model.trainable().values()))
    model.save_pretrained(tmp_path / "reward" / "model")
    del model
    for dtype in DTYPES:
        words = ["reward", "merge", "flux_dev", f"run_dir={tmp_path}", f"merge.dtype={dtype}", "merge.max_loss=1"]
        _check(merge_memory(str(tmp_path / "reward" / "model"), dtype), peak_memory(words), dtype)


@pytest.mark.slow
def test_the_estimate_is_a_little_above_the_peak_of_a_merged_export(tmp_path: Path) -> None:
    """Two double and four single blocks of FLUX.1-dev."""
    base = tmp_path / "flux"
    pipeline = full_width_pipeline(torch.bfloat16, 2, 4)
    pipeline.save_pretrained(base)
    settings = _run(tmp_path, f"flux.model={base}")
    policy = FluxPolicy(pipeline, settings.flux)
    _perturb(list(lora_parameters(policy.transformer).values()))
    buffer = io.BytesIO()
    torch.save({"ema": policy.lora_state(), "lora": policy.lora_state()}, buffer)
    del pipeline, policy
    folder = run_checkpoints(settings).folder(7)
    write_file(f"{folder}/rank-0.pt", buffer.getvalue())
    files = {"rank-0.pt": digest(buffer.getvalue())}
    manifest = {"version": 7, "training_seconds": 1.0, "settings": {}, "files": files}
    write_file(f"{folder}/manifest.json", json.dumps(manifest).encode())
    for dtype in DTYPES:
        words = ["policy", "export", "flux_dev", f"run_dir={tmp_path}", f"flux.model={base}", "flux.lora_rank=8"]
        peak = peak_memory([*words, "export.merged=true", f"merge.dtype={dtype}", "merge.max_loss=1"])
        _check(pipeline_memory(base, "bfloat16", dtype), peak, dtype)


def _perturb(parameters: list[torch.nn.Parameter]) -> None:
    torch.manual_seed(0)
    for parameter in parameters:
        parameter.data += 0.01 * torch.randn_like(parameter)


def _check(estimate: int, peak: Peak, dtype: Dtype) -> None:
    """In bfloat16 the weights that no LoRA changes stay pages of files. They count, because they are used."""
    measured = peak.resident if dtype == "bfloat16" else peak.own
    assert measured < estimate < MOST_ABOVE * measured, f"{dtype}: {estimate / GB:.2f} GB, {peak}"
