"""What a merge needs of host memory: the limits of this process, and the refusal before loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conf import UserError, load
from pipelines.common.host_memory import StoredWeights, available_memory, require_memory, stored_weights
from pipelines.reward.merge import write_merged
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

GB = 10**9


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
