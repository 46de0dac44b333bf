"""A missing run, a missing earlier stage or a wrong setting is one message and exit code 2, for every action."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import huggingface_hub.constants  # noqa: F401  # reads HF_HUB_OFFLINE once, so before a test sets it
import pytest
import ray

from conf import SettingsError, UserError, load
from pipelines import cli
from pipelines.cli import VERBS, main
from pipelines.common.models import check_model
from pipelines.common.ray_session import connect
from tests.support.ports import free_port
from tests.support.runs import make_run
from tests.support.scene_pairs import write_scene_pairs

ACTIONS = [[verb, name] for verb, actions in VERBS.items() for name in actions]
"""Every verb with each of its actions."""

MISSING: dict[str, list[str]] = {
    "preferences extend": [],
    "preferences triage": [],
    "preferences review": ["review.port=0"],
    "preferences to_label_studio": [],
    "preferences from_label_studio": [],
    "preferences publish": [],
    "preferences report": [],
    "reward train": [],
    "reward evaluate": [],
    "reward check": [],
    "reward score": ["prompts.jsonl", "images"],
    "reward merge": [],
    "reward serve": [],
    "policy train": [],
    "policy export": [],
    "policy sample": ["a red circle left of a blue square"],
    "evaluate run": [],
    "play run": [],
    "push lora": ["repo=me/x"],
    "push spatialscore": ["repo=me/x"],
    "push dataset": ["repo=me/x"],
    "benchmark draw": [],
    "benchmark judge": [],
    "benchmark report": [],
    "benchmark run": [],
    "benchmark export": [],
    "submit run": ["doctor", "submit.address=http://127.0.0.1:9"],
    "status run": ["status.once=true"],
    "ablation run": [],
}
"""Actions that need a run directory, an earlier stage or a cluster, with the words that lead to the check for it."""

NEEDS_NOTHING = {
    "preferences build": "the first stage",
    "preferences plan": "prints what the first stage costs",
    "plan run": "prints a plan",
    "benchmark fetch": "fetches published files",
    "run run": "starts with the first stage",
    "demo run": "starts with the first stage",
    "doctor run": "reports what is missing, with exit code 1",
    "scenes pretrain": "starts from random weights",
    "scenes check": "renders its own scenes",
    "config show": "prints settings",
    "config describe": "prints settings",
    "completion bash": "prints a script",
    "completion zsh": "prints a script",
    "completion fish": "prints a script",
}
"""Actions that need no earlier result, with the reason."""


def assert_one_message(words: list[str], capsys: pytest.CaptureFixture[str], expected: str = "") -> None:
    """The command ends with exit code 2 and one message of one line."""
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("spatialt2i: ") and err.count("\n") == 1 and "Traceback" not in err, err
    assert expected in err


def test_every_action_is_covered() -> None:
    assert {" ".join(words) for words in ACTIONS} == MISSING.keys() | NEEDS_NOTHING.keys()


@pytest.mark.parametrize("words", ACTIONS, ids=" ".join)
def test_a_wrong_setting(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "demo")
    verb = ["submit", "policy", "train", "run_dir=/x"] if words[0] == "submit" else words
    assert_one_message([*verb, "policy.lrr=1"], capsys, "did you mean policy.optimizer.lr?")
    assert_one_message([*verb, "policy.group_size=1"], capsys, "policy.group_size must be at least 2, got 1")


@pytest.mark.ray
@pytest.mark.parametrize("action", MISSING)
def test_a_missing_run_directory(
    action: str, ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = MISSING[action]
    verb = ["submit", *words] if action == "submit run" else [*action.split(), *words]
    assert_one_message([*verb, f"run_dir={tmp_path}/nowhere"], capsys)


@pytest.mark.parametrize(
    "action", ["preferences review", "preferences to_label_studio", "preferences publish", "preferences report"]
)
def test_a_run_without_pairs_is_refused_and_nothing_is_written(
    action: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    assert_one_message([*action.split(), *MISSING[action], f"run_dir={run.root}"], capsys, "no pairs in")
    assert list(run.root.iterdir()) == [run.settings]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("reward train", "no preference pairs at"),
        ("reward evaluate", "no SpatialScore at"),
        ("reward check", "no SpatialScore at"),
        ("reward score prompts.jsonl images", "no SpatialScore at"),
        ("reward serve", "no SpatialScore at"),
        ("policy train", "no SpatialScore at"),
        ("policy train policy.prompts=nowhere.jsonl rewards.spatialscore=0 rewards.rules=1", "nowhere.jsonl"),
        ("evaluate", "no trained policy in"),
        ("ablation", "no SpatialScore at"),
        ("run policy.prompts=nowhere.jsonl", "nowhere.jsonl"),
        ("reward train baselines.names=[GPT-5]", "the key of GPT-5 is read from $OPENAI_API_KEY, which is not set"),
        ("run baselines.names=[HPSv3]", "baselines.gpus is 0, but HPSv3 has"),
    ],
)
def test_what_is_missing_is_found_before_ray_starts(
    line: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("Ray was started"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = make_run(tmp_path / "run")
    assert_one_message([*line.split(), f"run_dir={run.root}"], capsys, expected)
    assert list(run.root.iterdir()) == [run.settings]


@pytest.mark.parametrize("verb", ["play", "evaluate", "policy train"])
@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        ("kind=python path=no_such_module:f", "there is no module no_such_module in"),
        ("kind=http url=http://host token_variable=NO_TOKEN", "the token of rewards.mine is read from $NO_TOKEN"),
    ],
)
def test_what_your_own_reward_lacks_is_found_before_ray_starts(
    verb: str, reward: str, expected: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run")
    for folder in (run.reward_model, run.export):
        folder.mkdir(parents=True)
    (run.reward_model / "spatialscore.json").write_text('{"model": "x", "pixels": 4096}')
    mine = [f"rewards.mine.{word}" for word in reward.split()]
    action, settings = cli.parse_settings(
        [*verb.split(), f"run_dir={run.root}", "serving.skip_sanity_checks=true", f"play.port={free_port()}", *mine]
    )
    module, function = action.check.split(":")
    with pytest.raises(SettingsError, match=re.escape(expected)):
        getattr(importlib.import_module(module), function)(settings)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            "sd35_medium",
            "flux.model was 'embedded' and is 'stabilityai/stable-diffusion-3.5-medium'; flux.lora_",
        ),
        ("flux.lora_alpha=8", "scale that it was trained with, but flux.lora_alpha was 32 and is 8: leave the preset"),
        ("flux.model=/a/copy flux.lora_rank=4", "trained with, but flux.lora_rank was 16 and is 4: leave the preset"),
    ],
)
@pytest.mark.parametrize("verb", ["play", "policy export"])
def test_a_trained_policy_of_other_settings_is_refused_before_ray_starts(
    verb: str,
    words: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("Ray was started"))
    run = make_run(tmp_path / "run")
    run.export.mkdir(parents=True)
    assert_one_message([*verb.split(), *words.split(), f"run_dir={run.root}"], capsys, expected)


@pytest.mark.ray
def test_a_missing_file_of_prompts(ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = ["rewards.spatialscore=0", "rewards.rules=1"]
    words = ["policy", "train", f"run_dir={tmp_path}", "policy.prompts=nowhere.jsonl", *rules]
    assert_one_message(words, capsys, "nowhere.jsonl")


@pytest.mark.ray
def test_an_error_in_a_ray_task_is_shown_without_ray_s_traceback(
    ray_cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @ray.remote
    def fail() -> None:
        raise UserError("no file x: set policy.prompts")

    monkeypatch.setattr(cli, "run", lambda action, resolved: ray.get(fail.remote()))
    assert_one_message(["demo"], capsys, "spatialt2i: no file x: set policy.prompts\n")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nonsense:port"])
def test_a_cluster_that_does_not_answer_is_a_user_error_at_once(address: str) -> None:
    with pytest.raises(UserError, match=f"no Ray cluster answers at ray_address={address}: start a cluster"):
        connect(address)


@pytest.mark.ray
def test_a_run_directory_that_cannot_be_written(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    words = ["run", f"run_dir={tmp_path}/file/run"]
    assert_one_message(words, capsys, "run_dir must be a folder that can be written")


@pytest.mark.ray
@pytest.mark.parametrize(
    ("setting", "location", "first_file"),
    [
        ("flux.model", "no/such/folder", "owner/model"),
        ("detector.model", "/nowhere", "owner/model"),
        ("flux.model", "{empty}", "model_index.json"),
        ("detector.model", "{empty}", "config.json"),
    ],
)
def test_a_model_that_cannot_be_loaded(
    setting: str,
    location: str,
    first_file: str,
    ray_cluster: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "prompts.jsonl").write_text(
        '{"text": "a cup left of a plate", "relations": [["cup", "left of", "plate"]]}'
    )
    location = location.format(empty=tmp_path)
    words = [f"run_dir={tmp_path}", f"policy.prompts={tmp_path}/prompts.jsonl", f"{setting}={location}"]
    words += ["rewards.spatialscore=0", "rewards.detector=1"]
    assert_one_message(["policy", "train", *words], capsys, first_file)


@pytest.mark.parametrize("words", [["ray_address=auto"], []])
def test_models_are_checked_only_on_a_private_cluster(words: list[str]) -> None:
    settings = load("scenes", words)
    if words:
        check_model(settings, "flux.model", "/on/the/nodes/only", "model_index.json")
    else:
        with pytest.raises(UserError, match=r"flux\.model=/on/the/nodes/only: there is no such folder"):
            check_model(settings, "flux.model", "/on/the/nodes/only", "model_index.json")
    check_model(settings, "flux.model", "owner/model", "model_index.json")


def test_a_model_of_the_hub_that_cannot_be_downloaded_is_found_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(ray, "init", lambda *args, **options: pytest.fail("Ray was started"))
    run = make_run(tmp_path / "run")
    words = ["reward", "train", f"run_dir={run.root}", "spatialscore.model=owner/no-such-model"]
    write_scene_pairs(run.preferences, 2)
    expected = "spatialscore.model=owner/no-such-model is not in the cache, and HF_HUB_OFFLINE is set: run `hf download"
    assert_one_message(words, capsys, expected)


@pytest.mark.parametrize(
    "line",
    [
        "preferences build",
        "preferences triage",
        "preferences review review.port=0",
        "preferences publish",
        "preferences report",
        "reward train",
        "reward evaluate",
        "reward check",
        "reward score prompts.jsonl .",
        "reward merge",
        "reward serve",
        "policy train serving.skip_sanity_checks=true",
        "policy export",
        "policy sample cat",
        "evaluate",
        "run",
        "ablation serving.skip_sanity_checks=true",
        f"submit doctor run_dir=/x submit.working_dir={Path(__file__).parents[2]}",
    ],
)
def test_a_command_that_has_what_it_needs_passes_its_check(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "runs" / "demo")
    for folder in (run.reward_model, run.export):
        folder.mkdir(parents=True)
    write_scene_pairs(run.preferences, 2)
    (run.reward_model / "spatialscore.json").write_text('{"model": "x", "pixels": 4096}')
    (tmp_path / "prompts.jsonl").write_text('{"image": "a.png", "prompt": "a cup"}\n')
    port = [f"serving.port={free_port()}"] if "serve" in line else []
    action, settings = cli.parse_settings([*line.split(), *port])
    module, function = action.check.split(":")
    getattr(importlib.import_module(module), function)(settings)
