"""What a resumed run may change: where it runs, silently; what it learns, with a record; its weights' form, never."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from conf import Settings, UserError, load
from pipelines.policy.checkpoint import Manifest
from pipelines.policy.lineage import Change, lineage_up_to, read_lineage, record_changes
from pipelines.policy.resume import (
    MEASURED,
    NEVER_CHANGE,
    RESUME_MAY_CHANGE,
    changes_since,
    check_resumable,
    check_settings_resumable,
    keep_start,
    run_identity,
    training_settings,
)

ELSEWHERE = [
    "policy.minutes=3",
    "policy.checkpoint.keep=9",
    "policy.rollout.max_actors=9",
    "policy.rollout.gpus=0.5",
    "policy.learner.gpus=0.5",
    "policy.learner.placement=spread",
    "policy.learner.replay_batch=0",
    "policy.sampling.batch=12",
    "policy.algorithm.ratio_tolerance=1e-3",
    "policy.strict_resume=true",
    "flux.compile=true",
    "flux.checkpoint_every=1",
]
"""Settings of placement, records and rounding."""


def manifest_of(*overrides: str, version: int = 5, preset: str = "scenes") -> Manifest:
    return Manifest(version, 1.0, run_identity(load(preset, overrides)))


def changes(manifest: Manifest, *overrides: str) -> list[str]:
    settings = load("scenes", overrides)
    return [str(change) for change in changes_since(manifest, settings, run_identity(settings))]


def test_placement_records_and_rounding_change_without_a_record() -> None:
    assert changes(manifest_of(), *ELSEWHERE) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["policy.algorithm.clip_range=1"], "policy.algorithm.clip_range 0.0001 → 1"),
        (["policy.group_size=12"], "policy.group_size 24 → 12"),
        (["detector.margin=0.2"], "detector.margin 0.1 → 0.2"),
        (["rewards.rules=1"], "rewards.rules 0 → 1"),
        (["rewards.spatialscore.at_least=0.5"], "rewards.spatialscore.at_least 0.5"),
        (["policy.algorithm.combine_rewards=z_scores"], "policy.algorithm.combine_rewards sum → z_scores"),
        (["flux.height=96"], "flux.height 64 → 96"),
        (["policy.evaluation.every=7"], "policy.evaluation.every 10 → 7"),
        (
            ["policy.optimizer.lr=1e-3"],
            "policy.optimizer.lr 0.003 → 0.001 (learning rate of iteration 61: 0.00165 → 0.00055)",
        ),
        (["policy.iterations=240"], "policy.iterations 120 → 240 (learning rate of iteration 61: 0.00165 → 0.00233)"),
        (
            ["policy.learner.engine=deepspeed"],
            "policy.learner.engine torch → deepspeed (gradients are summed in another order, so later versions are not "
            "bit for bit those of the same ranks)",
        ),
    ],
)
def test_what_is_learned_and_measured_changes_with_a_record(overrides: list[str], expected: str) -> None:
    manifest = manifest_of(version=60)
    assert changes(manifest, *overrides) == [expected]
    strict = load("scenes", [*overrides, "policy.strict_resume=true"])
    if overrides[0].startswith(MEASURED):
        check_resumable(manifest, strict)
        return
    name, values = expected.split(" (", maxsplit=1)[0].split(" ", 1)
    with pytest.raises(UserError, match=rf"version 60 belongs to other settings.*{name} was .*policy\.resume=never"):
        check_resumable(manifest, strict)
    assert "→" in values or name.endswith("at_least")


def test_a_watched_reward_changes_nothing_and_a_reward_that_is_left_out_is_recorded() -> None:
    assert changes(manifest_of(version=60), "rewards.judge.weight=0") == []
    left_out = changes(manifest_of(version=60), "rewards.spatialscore=0", "rewards.rules=1")
    assert left_out[1:] == ["rewards.rules 0 → 1", "rewards.spatialscore 1 → 0"] and "SpatialScore" in left_out[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["flux.lora_rank=8"], r"flux\.lora_rank was 16 and is 8\. The rule: the weights keep their rank"),
        (['flux.lora_targets=["attn.to_q"]'], r"The rule: the weights keep their layers"),
        (["flux.lora_alpha=16"], r"flux\.lora_alpha was 32 and is 16.*policy\.start_from=<this run_dir>"),
        (["policy.start_from=x"], r"policy\.start_from was '' and is 'x'\. The rule: a run keeps its start"),
        (["policy.optimizer.lr=1", "flux.lora_rank=8"], r"continued: flux\.lora_rank was 16 and is 8\. The rule"),
    ],
)
def test_the_form_of_the_weights_never_changes(overrides: list[str], message: str) -> None:
    """The command says so before it reads a model."""
    with pytest.raises(UserError, match=message):
        check_settings_resumable(manifest_of(), load("scenes", overrides))


def test_a_run_keeps_its_start_without_naming_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = manifest_of("policy.start_from=lora")
    for again in ([], ["policy.start_from=lora/"], [f"policy.start_from={tmp_path}/lora"]):
        assert changes(manifest, *again) == []
    with pytest.raises(UserError, match="a run keeps its start"):
        changes(manifest, "policy.start_from=another")
    kept = keep_start(run_identity(load("scenes")), manifest)
    assert kept["policy.start_from"] == "lora"


def test_a_checkpoint_from_before_the_lineage_is_continued() -> None:
    """The manifest is one of `scenes` from then; with its settings nothing has changed."""
    text = (Path(__file__).parent / "data" / "manifest_before_lineage.json").read_text()
    manifest = Manifest(**json.loads(text))
    known = manifest.settings.keys() & training_settings(Settings()).keys()
    settings = load("scenes", [f"{name}={json.dumps(manifest.settings[name])}" for name in known])
    models = {name: manifest.settings[name] for name in ("the base", "SpatialScore")}
    identity = run_identity(settings) | models
    assert len(known) > 40 and changes_since(manifest, settings, identity) == []


def test_a_setting_that_is_newer_than_the_checkpoint_had_its_default() -> None:
    settings = load("scenes")
    known = {name: value for name, value in run_identity(settings).items() if name != "flux.lora_rank"}
    check_resumable(Manifest(5, 1.0, known), settings)
    with pytest.raises(UserError, match=r"flux\.lora_rank was 16 and is 8"):
        check_resumable(Manifest(5, 1.0, known), replace(settings, flux=replace(settings.flux, lora_rank=8)))


def test_every_setting_with_a_rule_exists() -> None:
    """Otherwise a renamed setting would be in another class without notice."""
    settings = load("scenes")
    for name in (*RESUME_MAY_CHANGE, *MEASURED, *NEVER_CHANGE):
        value: object = settings
        for part in () if name.startswith("the ") else name.split("."):
            value = vars(value)[part]
    assert "policy.rollout.cpus" not in training_settings(settings)
    assert "policy.learner.ranks" in training_settings(settings)
    assert run_identity(settings).keys() >= {"policy.evaluation.every", "the base", "the file policy.held_out_prompts"}


def test_inputs_are_compared_by_content(tmp_path: Path) -> None:
    (tmp_path / "score").mkdir()
    (tmp_path / "score" / "weights").write_bytes(b"one")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "a dog"}')
    given = [f"run_dir={tmp_path}", f"serving.model={tmp_path / 'score'}", f"policy.prompts={prompts}"]
    settings = load("flux_dev", given)
    manifest = Manifest(7, 1.0, run_identity(settings))
    with pytest.raises(UserError, match=r"the base was 'black-forest-labs/FLUX.1-dev' and is 'another'.*start_from"):
        check_resumable(manifest, load("flux_dev", [*given, "flux.model=another"]))
    (tmp_path / "score" / "weights").write_bytes(b"two")
    prompts.write_text('{"text": "a cat"}')
    judged = load("flux_dev", [*given, "rewards.judge=1"])
    names = [change.name for change in changes_since(manifest, judged, run_identity(judged))]
    assert names == ["SpatialScore", "rewards.judge", "the file policy.prompts", "the judge"]


def test_the_lineage_has_what_each_version_depends_on(tmp_path: Path) -> None:
    """A continuation that ended before its first checkpoint is replaced; what was repeated keeps its date."""
    path = tmp_path / "lineage.jsonl"
    record_changes(path, 3, [])
    assert not path.exists()
    record_changes(path, 0, [Change("policy.start_from", "", "runs/a", "SHA-256 abc")])
    record_changes(path, 20, [Change("policy.optimizer.lr", 3e-3, 1e-3), Change("rewards.rules", 0.0, 1.0)])
    path.write_text(path.read_text().replace(read_lineage(path)[1].date, "2020-01-01T00:00:00+00:00"))
    record_changes(path, 20, [Change("policy.optimizer.lr", 3e-3, 1e-3)])
    record_changes(path, 30, [Change("policy.iterations", 40, 80)])
    rows = read_lineage(path)
    assert [(row.version, row.change.name) for row in rows] == [
        (0, "policy.start_from"), (20, "policy.optimizer.lr"), (30, "policy.iterations"),
    ]  # fmt: skip
    assert str(rows[0]).endswith("): policy.start_from runs/a (SHA-256 abc)")
    assert str(rows[1]) == "from version 20 (2020-01-01): policy.optimizer.lr 0.003 → 0.001"
    assert [row.version for row in lineage_up_to(path, 30)] == [0, 20]
    record_changes(path, 10, [])  # the newest checkpoints are damaged, and the run goes on from an older one
    assert [row.version for row in read_lineage(path)] == [0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("policy.sampling.batch=5", "must divide policy.group_size, got 5 and 24.*: use 4 or 6"),
        (
            "policy.rollout.min_actors=3",
            "policy.rollout.min_actors must be at most policy.rollout.max_actors, got 3 > 2",
        ),
        ("policy.optimizer.steps_per_iteration=5", "prompts_per_iteration must be divisible by .*: use 10 or 15"),
        ("policy.algorithm.kl_reference=start", r"kl_reference=start needs policy\.start_from"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load("scenes", [override])
