"""The doctor: every failure is provoked once and comes with its mend; secrets stay secret; the exit code tells."""

from __future__ import annotations

import importlib.metadata
import re
import socket
import sys
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conf import load
from pipelines.cli import main
from pipelines.operations.doctor import access, gpus, machine, models, ray_address, storage
from pipelines.operations.doctor.finding import Finding

ROOT = Path(__file__).parents[2]


def assert_fails(findings: Iterable[Finding], what: str, mend: str) -> None:
    """One of the findings is a failure that reads like `what` and whose mend reads like `mend`."""
    failed = [finding for finding in findings if not finding.ok]
    assert any(re.search(what, each.what) and re.search(mend, each.fix) for each in failed), failed


def test_an_old_python_and_missing_or_old_packages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.check_python().ok and all(each.ok for each in machine.check_packages())
    wanted = ["pytest>=999", "no-such-package", 'other>=1; extra == "dev"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)
    findings = list(machine.check_packages())
    assert_fails(findings, r"pytest [\d.]+ is installed, >=999 is needed", "make setup")
    assert_fails(findings, "no-such-package is not installed", "constraints.txt")
    assert len(findings) == 3  # what only developers need is not asked for
    monkeypatch.undo()
    monkeypatch.setattr(machine, "OWN", "no-such-package")
    assert_fails(machine.check_packages(), "itself is not installed", "pip install")
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert_fails([machine.check_python()], "Python 3.10.0", "3.11")


def test_keys_are_asked_for_by_name_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load(
        "flux_dev", ["rewards.judge=1", "judge.key_variable=JUDGE_KEY", "serving.token_variable=SCORE_TOKEN"]
    )
    for name in ("OPENAI_API_KEY", "ARK_API_KEY", "JUDGE_KEY", "SCORE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    findings = list(access.check_keys(settings))
    assert [finding.what.split()[2] for finding in findings] == [
        "writer",
        "perturber",
        "seedream",
        "judge",
        "serving.http",
    ]
    assert_fails(findings, r"writer in \$OPENAI_API_KEY", "set OPENAI_API_KEY")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-mine")
    found = list(access.check_keys(settings))
    assert found[0].ok and "secret-of-mine" not in str(found)
    assert not list(access.check_keys(load("scenes")))


def test_a_port_that_is_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = load("scenes", ["serving.http=true", f"serving.port={port}"])
        assert_fails(
            access.check_ports(settings), f"pool: 127.0.0.1:{port} cannot be listened on", r"set serving\.port"
        )
    assert all(finding.ok for finding in access.check_ports(settings))


def test_places_that_take_no_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    settings = load("scenes", [f"run_dir={tmp_path}/file/run", "policy.checkpoint.dir=nonsense://bucket/run"])
    findings = list(storage.check_storage(settings))
    assert_fails(findings, "run_dir=.*file/run takes no files", "set run_dir")
    assert_fails(findings, "checkpoint_dir=nonsense://bucket/run takes no files", "pyarrow.fs")
    well = load("scenes", [f"run_dir={tmp_path}/run", f"policy.checkpoint.dir=file://{tmp_path}/kept"])
    assert sum("whole or not at all" in finding.what and finding.ok for finding in storage.check_storage(well)) == 2
    assert not list((tmp_path / "run").iterdir())
    monkeypatch.setattr(storage, "LEAST_FREE", 1.1)
    assert_fails(storage.check_storage(well), r"GB \(\d+%\) are free", "remove old runs")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub on loopback: owner/gated asks for its licence, owner/open is free, others are unknown."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            codes = {"/api/models/owner/gated/auth-check": 403, "/api/models/owner/open/auth-check": 200}
            code = codes.get(self.path, 404)
            self.send_response(code)
            if code != 200:
                self.send_header("X-Error-Code", "GatedRepo" if code == 403 else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield
    server.shutdown()
    server.server_close()


def policy_model(location: str) -> list[Finding]:
    return list(models.check_models(load("scenes", [f"flux.model={location}"])))


def test_models_that_cannot_be_loaded_are_told(hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert all(finding.ok for finding in models.check_models(load("scenes")))
    assert all(finding.ok for finding in policy_model("owner/open"))
    assert_fails(policy_model("owner/gated"), "licence is not accepted", "accept the licence .* HF_TOKEN")
    assert_fails(policy_model("owner/absent"), "none of that name", "HF_TOKEN")
    assert_fails(policy_model("no/such/folder"), "is no folder here", "owner/model")
    assert_fails(policy_model(str(tmp_path)), "folder with model_index.json", "save_pretrained")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert_fails(policy_model("owner/open"), "the hub does not answer: ConnectError", "hf download owner/open")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert_fails(policy_model("owner/open"), "HF_HUB_OFFLINE is set", "hf download")
    painted = load("flux_dev", ["preferences.generators.hunyuan_image=0", "rewards.detector=1"])
    named = [finding.what.partition("=")[0] for finding in models.check_models(painted)]
    assert named == ["flux.model", "spatialscore.model", "qwen_image.model", "detector.model"]


def test_a_cached_model_needs_no_hub_but_must_be_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cached = tmp_path / "models--owner--gated"
    for folder in ("refs", "blobs", "snapshots/abc"):
        (cached / folder).mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc" / "model_index.json").write_text("{}")
    assert policy_model("owner/gated")[0].ok
    (cached / "blobs" / "123.incomplete").write_text("")
    assert_fails(policy_model("owner/gated"), "in the cache, 1 files in part", "hf download")


def test_gpus_that_are_missing_or_too_small_are_told() -> None:
    settings = load("flux_dev")
    assert_fails(
        gpus.check_memory("here", gpus.GpuInfo("", []), settings), "torch here has no CUDA", "install a CUDA build"
    )
    assert_fails(gpus.check_memory("here", gpus.GpuInfo("12.8", []), settings), "sees no GPU", "nvidia-smi")
    small = gpus.GpuInfo("12.8", [("NVIDIA L4", 24.0), ("NVIDIA H100", 85.0)])
    assert [finding.ok for finding in gpus.check_memory("here", small, settings)] == [False, True]
    assert_fails(gpus.check_memory("here", small, settings), "24 GB; the fullest holds 34 GB", "docs/cluster.md")
    beside = gpus.roles(load("flux_dev", ["rewards.detector=1", "detector.gpus=0.2"]))[-1]
    assert beside == gpus.Role("detector replica", 0.2, pytest.approx(0.62))
    assert "detector replica" not in {role.name for role in gpus.roles(load("flux_dev", ["detector.gpus=0.2"]))}
    unknown = load("flux_dev", ["flux.model=mine/own"])
    assert all("not known" in finding.what and finding.ok for finding in gpus.check_memory("here", small, unknown))
    assert next(gpus.check_gpus(load("scenes"))).ok


@pytest.mark.parametrize("preset", ["flux_dev", "flux_dev_1gpu", "qwen_image"])
def test_the_guide_s_table_holds_the_doctor_s_figures(preset: str) -> None:
    assert f"{gpus.peak_gb(load(preset)):.1f} GB" in (ROOT / "docs" / "cluster.md").read_text()


def test_a_cluster_that_does_not_answer_is_told() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings = load("scenes", [f"ray_address=127.0.0.1:{probe.getsockname()[1]}"])
    assert_fails(ray_address.check_ray(settings), "nothing answers", "ray start --head")


@pytest.mark.ray
def test_a_cluster_without_room_is_told(ray_cluster: None) -> None:
    findings = list(ray_address.check_ray(load("flux_dev")))
    assert findings[0].ok and "joined" in findings[0].what
    assert_fails(findings, "4 CPUs and 0 GPUs: too few", r"lower policy\.learner\.ranks")
    assert all(finding.ok for finding in ray_address.check_ray(load("scenes", ["ray_address=auto"])))


def test_scripts_get_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"run_dir={tmp_path}"]) == 0
    assert "ready for scenes" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["doctor", f"run_dir={tmp_path}", "flux.model=no/such/folder"])
    told = capsys.readouterr().out
    assert ended.value.code == 1 and "FAIL flux.model" in told and "1 checks failed" in told
