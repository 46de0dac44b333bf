"""The doctor: every failure is provoked once and comes with its fix; keys are never shown; the exit code is right."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from actors.rewards.scorers import commit_of
from conf import SettingsError, load
from pipelines.cli import main, parse_settings
from pipelines.operations.doctor import access, gpus, machine, models, ray_address, storage
from pipelines.operations.doctor.finding import Finding
from pipelines.operations.doctor.gpus import Gpu, GpuInfo
from pipelines.operations.doctor.models import Hub

ROOT = Path(__file__).parents[2]


def assert_fails(findings: Iterable[Finding], message: str, fix: str) -> None:
    """One of the findings is a failure whose message and fix match these patterns."""
    failed = [finding for finding in findings if not finding.ok]
    assert any(re.search(message, each.message) and re.search(fix, each.fix) for each in failed), failed


def test_an_old_python_fails() -> None:
    assert machine.check_python().ok
    assert_fails([machine.check_python((3, 10, 0))], "Python 3.10.0", "3.11")


def test_missing_and_old_packages_fail() -> None:
    assert all(finding.ok for finding in machine.check_packages())
    findings = list(machine.check_requirements(["pytest>=999", "no-such-package", 'other>=1; extra == "dev"']))
    assert_fails(findings, r"pytest [\d.]+ is installed, but >=999 is required", "make setup")
    assert_fails(findings, "no-such-package is not installed", "constraints.txt")
    assert findings[2:] == [Finding(True, "0 of 2 required packages are installed")]  # extras are ignored
    assert_fails(machine.check_packages("no-such-package"), "itself is not installed", "pip install")


def test_keys_are_checked_by_name_and_never_shown() -> None:
    overrides = ["rewards.judge=1", "judge.key_variable=JUDGE_KEY", "serving.token_variable=SCORE_TOKEN"]
    settings = load("flux_dev", overrides)
    missing = list(access.check_keys(settings, {}))
    services = [finding.message.split()[2] for finding in missing]
    assert services == ["writer", "perturber", "seedream", "claim_judge", "judge", "serving.http"]
    assert_fails(missing, r"writer in \$OPENAI_API_KEY", "set OPENAI_API_KEY")
    found = list(access.check_keys(settings, {"OPENAI_API_KEY": "sk-secret-of-mine"}))
    assert [finding.ok for finding in found] == [True, True, False, True, False, False]
    assert "secret-of-mine" not in str(found)
    assert not list(access.check_keys(load("scenes"), {}))


def test_a_port_in_use_fails() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = load("scenes", ["serving.http=true", f"serving.port={port}"])
        assert_fails(access.check_ports(settings), f"serving: cannot listen on 127.0.0.1:{port}", r"set serving\.port")
    assert all(finding.ok for finding in access.check_ports(settings))


def test_folders_that_cannot_be_written_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = load("scenes", [f"run_dir={tmp_path}/file/run", "policy.checkpoint.dir=nonsense://bucket/run"])
    findings = list(storage.check_storage(settings))
    assert_fails(findings, "run_dir=.*file/run is not writable", "set run_dir")
    assert_fails(findings, r"policy\.checkpoint\.dir=nonsense://bucket/run is not writable", "pyarrow.fs")


def test_writable_folders_pass_and_a_full_disk_fails(tmp_path: Path) -> None:
    settings = load("scenes", [f"run_dir={tmp_path}/run", f"policy.checkpoint.dir=file://{tmp_path}/kept"])
    findings = list(storage.check_storage(settings, min_free_fraction=0.0))
    assert [finding.ok for finding in findings] == [True, True, True]
    assert not list(tmp_path.iterdir()), "the check leaves nothing behind"
    assert_fails(storage.check_storage(settings, min_free_fraction=1.1), r"GB free \(\d+%\)", "remove old runs")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    """A hub on loopback: owner/gated needs its licence accepted, owner/open is free, others are unknown."""

    class Handler(BaseHTTPRequestHandler):
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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Hub(tmp_path / "hub", f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def policy_model(location: str, hub: Hub) -> list[Finding]:
    """Findings about the models of a run whose policy is at `location`."""
    return list(models.check_models(load("scenes", [f"flux.model={location}"]), hub))


def test_models_that_cannot_be_loaded_fail(hub: Hub, tmp_path: Path) -> None:
    assert all(finding.ok for finding in models.check_models(load("scenes"), hub))
    assert all(finding.ok for finding in policy_model("owner/open", hub))
    assert_fails(policy_model("owner/gated", hub), "not accepted its licence", "accept the licence .* HF_TOKEN")
    assert_fails(policy_model("owner/absent", hub), "no model of that name", "HF_TOKEN")
    assert_fails(policy_model("no/such/folder", hub), "there is no such folder", "owner/model")
    assert_fails(policy_model(str(tmp_path), hub), "folder with model_index.json", "save_pretrained")


def test_a_hub_that_cannot_be_asked_fails(hub: Hub) -> None:
    closed = replace(hub, endpoint="http://127.0.0.1:9")
    assert_fails(policy_model("owner/open", closed), "hub does not answer: ConnectError", "hf download owner/open")
    assert_fails(policy_model("owner/open", replace(hub, offline=True)), "HF_HUB_OFFLINE is set", "hf download")


def test_only_models_that_the_preset_loads_are_checked(hub: Hub) -> None:
    settings = load("flux_dev", ["preferences.generators.hunyuan_image=0", "rewards.detector=1"])
    checked = [finding.message.partition("=")[0] for finding in models.check_models(settings, hub)]
    assert checked == ["flux.model", "spatialscore.model", "qwen_image.model", "detector.model"]


def test_the_models_of_rewards_are_checked(tmp_path: Path) -> None:
    """Each kind has weights of its own, and some need a tokenizer or a configuration from elsewhere."""
    weights = tmp_path / "models--MizzenAI--HPSv3"
    pinned = weights / "snapshots" / commit_of("MizzenAI/HPSv3")
    for folder in (weights / "refs", weights / "blobs", pinned):
        folder.mkdir(parents=True)
    (pinned / "HPSv3.safetensors").write_text("weights")
    rewards = ["hpsv3.gpus=1", "depth_rules.weight=1", f"depth_rules.depth_model={tmp_path}", "own.kind=clip"]
    settings = load("flux_dev", ["doctor.stage=policy", *(f"rewards.{each}" for each in rewards)])
    findings = {
        finding.message.split(" is ")[0]: finding
        for finding in models.check_models(settings, Hub(tmp_path, offline=True))
    }
    found = {message: finding.ok for message, finding in findings.items() if "rewards" in message}
    assert found == {
        "rewards.hpsv3.model=MizzenAI/HPSv3": True,
        "part of rewards.hpsv3=Qwen/Qwen2-VL-7B-Instruct": False,
        "rewards.depth_rules.model=IDEA-Research/grounding-dino-base": False,
        f"rewards.depth_rules.depth_model={tmp_path}": False,
        "rewards.own.model=openai/clip-vit-base-patch32": False,
    }


def test_a_cached_model_needs_no_hub_but_must_be_complete(tmp_path: Path) -> None:
    offline = Hub(tmp_path, offline=True)
    cached = tmp_path / "models--owner--gated"
    for folder in ("refs", "blobs", "snapshots/abc"):
        (cached / folder).mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc" / "model_index.json").write_text("{}")
    assert policy_model("owner/gated", offline)[0].ok
    (cached / "blobs" / "123.incomplete").write_text("")
    assert_fails(policy_model("owner/gated", offline), "1 of its files are incomplete", "hf download owner/gated")


def test_gpus_that_are_missing_or_too_small_fail() -> None:
    settings = load("flux_dev")
    assert_fails(
        gpus.check_gpus(load("flux_dev", ["ray_address=local"]), lambda: GpuInfo("", [])),
        "this machine: torch was built without CUDA",
        "install a CUDA build",
    )
    assert_fails(gpus.check_memory("node a", GpuInfo("12.8", []), settings), "torch sees no GPU", "nvidia-smi")
    found = GpuInfo("12.8", [Gpu("NVIDIA L4", 24.0), Gpu("NVIDIA H100", 85.0)])
    assert [finding.ok for finding in gpus.check_memory("node a", found, settings)] == [False, True]
    assert_fails(gpus.check_memory("node a", found, settings), "L4, 24 GB, CUDA 12.8; needed: 36 GB", "docs/cluster.md")
    unknown = load("flux_dev", ["flux.model=mine/own"])
    assert all("unknown" in finding.message and finding.ok for finding in gpus.check_memory("node a", found, unknown))


def test_a_preset_without_gpus_asks_no_torch() -> None:
    def fail() -> GpuInfo:
        raise AssertionError("torch was asked")

    assert [finding.ok for finding in gpus.check_gpus(load("scenes"), fail)] == [True]


def test_a_detector_counts_if_it_has_a_weight() -> None:
    with_weight = gpus.gpu_roles(load("flux_dev", ["rewards.detector=1", "detector.gpus=0.2"]))
    gigabytes: Any = pytest.approx(0.62)
    assert with_weight[-1] == gpus.GpuRole("detector replica", 0.2, gigabytes)
    without = gpus.gpu_roles(load("flux_dev", ["detector.gpus=0.2"]))
    assert "detector replica" not in {role.name for role in without}


@pytest.mark.parametrize("preset", ["flux_dev", "flux_dev_1gpu", "qwen_image"])
def test_the_table_in_the_cluster_guide_has_the_doctor_s_numbers(preset: str) -> None:
    assert f"{gpus.peak_gb(load(preset)):.1f} GB" in (ROOT / "docs" / "cluster.md").read_text()


def test_a_cluster_that_does_not_answer_fails() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        settings = load("scenes", [f"ray_address=127.0.0.1:{probe.getsockname()[1]}"])
    assert_fails(ray_address.check_ray(settings), "nothing answers", "ray start --head")


@pytest.mark.ray
def test_a_cluster_that_can_never_have_enough_resources_fails(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    findings = list(ray_address.check_ray(load("flux_dev")))
    assert findings[0].ok and "connected to" in findings[0].message
    assert any("4 CPUs and 0 GPUs, too few now" in finding.message and finding.ok for finding in findings)
    monkeypatch.setenv("SPATIALT2I_MAX_NODES", "any=1x4x0")
    found = list(ray_address.check_ray(load("flux_dev")))
    assert_fails(found, "4 CPUs and 0 GPUs, at most 4 .* too few for ever", r"lower policy\.learner\.ranks")
    monkeypatch.delenv("SPATIALT2I_MAX_NODES")
    assert all(finding.ok for finding in ray_address.check_ray(load("scenes", ["ray_address=auto"])))


def test_the_exit_code_is_1_if_a_check_failed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", f"run_dir={tmp_path}"]) == 0
    assert "ready for scenes" in capsys.readouterr().out
    assert main(["doctor", f"run_dir={tmp_path}", "flux.model=no/such/folder"]) == 1
    output = capsys.readouterr().out
    assert "✗ flux.model" in output and "1 check failed" in output


def test_a_stage_that_is_named_asks_only_for_what_it_needs(hub: Hub) -> None:
    def asked(stage: str) -> tuple[set[str], set[str]]:
        action, settings = parse_settings(["doctor", *([stage] if stage else []), "flux_dev"])
        assert action.command.endswith("doctor:command") and settings.doctor.stage == (stage or "all")
        keys = {finding.message.split()[2] for finding in access.check_keys(settings, {})}
        return keys, {finding.message.partition("=")[0] for finding in models.check_models(settings, hub)}

    everything, pairs = asked(""), asked("preferences")
    assert {"writer", "perturber", "seedream"} <= pairs[0] <= everything[0]
    assert pairs[1] == {"qwen_image.model", "hunyuan_image.model"}
    assert asked("reward") == (set(), {"spatialscore.model"})
    keys, locations = asked("policy")
    assert not keys & pairs[0] and {"flux.model", "spatialscore.model"} <= locations and not locations & pairs[1]
    assert asked("evaluation") == (set(), {"flux.model", "spatialscore.model"})
    with pytest.raises(SettingsError, match=r"flux_devv.*flux_dev"):
        parse_settings(["doctor", "flux_devv"])
