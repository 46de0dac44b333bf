"""What `spatialt2i plan` refuses, and how its words are read. No model is counted here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from actors.rewards.scorers import SCORERS
from conf import SettingsError, UserError, load
from pipelines.cli import parse_settings
from pipelines.planning import command
from pipelines.planning.calibration import Calibration, read_calibration, write_calibration
from pipelines.planning.gpus import GPU_TYPES, GpuType, gpu_type, recognize
from pipelines.planning.memory import GpuMemory, MemoryPart
from pipelines.planning.other_rewards import other_rewards, uncounted
from pipelines.planning.plan import Option, PartWork, Plan, make_plan
from pipelines.planning.report import report
from pipelines.planning.reward_plan import RewardPlan
from pipelines.policy.prediction import cluster_gpu

MEASURED = Calibration(
    "NVIDIA H20", "black-forest-labs/FLUX.1-dev", 512 * 512, 256, "bfloat16", 32, 1, False, 12, 2.0, 9.0, 0.02
)


def test_its_settings_need_no_section() -> None:
    _, settings = parse_settings(["plan", "flux_dev", "gpus=16", "gpu=H20", "policy.iterations=7"])
    assert (settings.plan.gpus, settings.plan.gpu, settings.policy.iterations) == (16, "H20", 7)
    with pytest.raises(SettingsError, match="did you mean H20"):
        parse_settings(["plan", "flux_dev", "gpu=H21"])
    with pytest.raises(SettingsError, match="no setting 'gpus'"):  # of this command only
        parse_settings(["doctor", "flux_dev", "gpus=16"])


def test_a_run_without_gpus_is_not_planned() -> None:
    with pytest.raises(UserError, match="scenes reserves none: name another preset"):
        make_plan(load("scenes"))


def test_a_model_of_unknown_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"flux\.model=someone/flux: its configuration is not known.*model_index\.json"):
        make_plan(load("flux_dev", ["flux.model=someone/flux"]))


def test_another_gpu_by_a_file(tmp_path: Path) -> None:
    file = tmp_path / "gpu.yaml"
    rates = {"name": "X1", "bf16_tflops": 500, "fp32_tflops": 50, "bandwidth_tb_s": 2.5, "memory_gib": 64}
    for changed, message in (
        ({}, ""),
        ({"memory_gib": 0}, "memory_gib must be a number above 0, got 0"),
        ({"memory_gb": 64}, "must have exactly the keys name, bf16_tflops.*wrong: memory_gb"),
    ):
        file.write_text(json.dumps(rates | changed))
        plan = load("scenes", [f"plan.gpu_file={file}"]).plan
        if message:
            with pytest.raises(UserError, match=message):
                gpu_type(plan)
        else:
            assert gpu_type(plan) == GpuType("X1", 500.0, 50.0, 2.5, 64.0)


def test_measurements_count_only_for_the_settings_they_were_made_with(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    words = [f"plan.calibration={file}"]
    with pytest.raises(UserError, match=r"no such file: write it with `python -m tests\.bench\.gpu_policy`"):
        read_calibration(load("flux_dev", words))
    write_calibration(file, MEASURED)
    assert read_calibration(load("flux_dev", [*words, "flux.checkpoint_every=1"])) == MEASURED
    with pytest.raises(UserError, match="was measured with text_tokens=256, but the settings have 512"):
        read_calibration(load("flux_dev", [*words, "flux.max_sequence_length=512"]))
    file.write_text(json.dumps(asdict(MEASURED) | {"batch": "twelve"}))
    with pytest.raises(UserError, match=r"calibration\.json.*batch"):
        read_calibration(load("flux_dev", words))


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"), ("NVIDIA H20", "H20"), ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"), ("NVIDIA A100-SXM4-40GB", None), ("NVIDIA H100 PCIe", None),
        ("Tesla T4", None),
    ],
)  # fmt: skip
def test_a_device_is_known_by_its_name(name: str, known: str | None) -> None:
    assert recognize(name) == (GPU_TYPES[known] if known else None)


def test_the_type_of_a_cluster_is_that_of_all_its_nodes() -> None:
    def node(kind: str, alive: bool = True) -> dict[str, object]:
        return {"Alive": alive, "Resources": {"CPU": 8.0, "GPU": 8.0, f"accelerator_type:{kind}": 1.0}}

    assert cluster_gpu([node("H100"), node("H100"), node("T4", alive=False)]) == GPU_TYPES["H100"]
    assert cluster_gpu([node("H100"), node("H20")]) is None
    assert cluster_gpu([{"Alive": True, "Resources": {"CPU": 2.0}}]) is None


def _plan(excess: float) -> Plan:
    """Two options on 2 GPUs, of which the second one is faster and lacks memory if `excess` is not 0."""
    memory = GpuMemory(
        ("learn", "sample"), 2, (MemoryPart("transformer", 60.0), MemoryPart("LoRA", 1.0)), 61.0 - excess
    )
    reward = RewardPlan("backbone", True, 1, 32, 9, 1.0, 2.0, 256, 0.4, 3.0, (MemoryPart("backbone", 5.0),), 61.0)
    slow = Option("as set: separate", 1, 1, 0, 2, 20.0, 0.5, 0.5, 0.0, 0.5, 1.0, 2.0, 96.0, (memory,), excess + 1, {})
    fast = replace(slow, name="colocated", iteration_seconds=9.0, excess_gib=excess, overrides={"flux.compile": True})
    return Plan("mine", GPU_TYPES["H100"], 2, "", 24, (PartWork("sampling", 1.5, 2.5, 3.0),), (slow, fast), (reward,))


def test_the_report_ends_with_the_settings_of_the_fastest_division(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "make_plan", lambda settings: _plan(0.0))
    command.plan(load("flux_dev"))
    assert capsys.readouterr().out.endswith("Settings of colocated, to add to the command:\n  flux.compile=True\n")
    command.plan(load("flux_dev", ["plan.output=json"]))
    assert json.loads(capsys.readouterr().out)["options"][1]["iteration_seconds"] == 9.0


def test_what_does_not_fit_is_printed_and_then_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "make_plan", lambda settings: _plan(4.5))
    with pytest.raises(UserError, match=r"mine does not fit 2 x H100: .* learn, sample needs 61\.0 GiB and has 56\.5"):
        command.plan(load("flux_dev"))
    assert "lacks 4.5 GiB" in capsys.readouterr().out


def test_a_worker_of_stage_2_that_does_not_fit_is_printed_with_the_setting_to_change() -> None:
    plan = _plan(0.0)
    full = replace(plan.rewards[0], memory=(MemoryPart("backbone", 5.0), MemoryPart("activations", 58.0)))
    assert "lacks 2.0 GiB: set reward.micro_batch_size=9" in report(replace(plan, rewards=(full,)))
    none = replace(full, fitting_pairs=0)
    assert "micro_batch_size" not in report(replace(plan, rewards=(none,)))


def test_other_rewards_have_their_published_sizes() -> None:
    """Their parameters are those of the table of docs/rewards.md, within 5 %."""
    settings = load("flux_dev", [f"rewards.{kind}.gpus=1" for kind in SCORERS])
    found = {other.name: other for other in other_rewards(settings, GPU_TYPES["H100"])}
    for kind, entry in SCORERS.items():
        assert found[kind].billions == pytest.approx(entry.billions, rel=0.05), kind
        assert 0 < found[kind].image_seconds < 5
    assert found["vqascore"].weights_gib == pytest.approx(11.5 * 2 / 1.0737, rel=0.05)
    assert found["unifiedreward"].image_seconds > 20 * found["hpsv3"].image_seconds, "it compares 24 images in pairs"


def test_the_report_names_the_rewards_beside_spatialscore() -> None:
    words = ["rewards.hpsv3.gpus=0.1", "rewards.hpsv3.weight=1", "rewards.hpsv3.max_replicas=2", "rewards.judge=0.1"]
    settings = load("flux_dev", [*words, "rewards.clip.model=mine/clip"])
    plan = replace(
        _plan(0.0), others=tuple(other_rewards(settings, GPU_TYPES["L40S"])), uncounted=tuple(uncounted(settings))
    )
    lines = report(plan).splitlines()
    (row,) = (line for line in lines if line.startswith("hpsv3  "))
    assert row.split()[1:6] == ["trains", "8.28", "1", "to", "2"]
    assert any("reserve up to 0.2 of the 2 GPUs, for which the divisions leave room" in line for line in lines)
    assert any(line.startswith("hpsv3: its weights do not fit its share of a GPU, 4.4 GiB") for line in lines)
    assert any(
        "slower than the rest of an iteration (9.0 s): raise rewards.hpsv3.max_replicas" in line for line in lines
    )
    assert "Their GPUs count, their time and memory are not known: the rewards judge, clip." in lines
    assert "Their GPUs count" not in report(_plan(0.0))
