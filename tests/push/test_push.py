"""`push`: what arrives on a local Hub is the artefact, byte by byte, and diffusers, datasets and the scorer load it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from datasets import load_dataset
from diffusers import FluxPipeline
from huggingface_hub import constants

from actors.folders import write_folder
from actors.policy.flux import FluxPolicy
from actors.spatialscore.scorer import SpatialScorer
from actors.types import PolicyWeights
from conf import Settings, SettingsError, UserError, load
from conf.push import PushSettings
from pipelines.cli import parse_settings
from pipelines.operations import push_checks
from pipelines.policy.export import export_lora
from pipelines.policy.fingerprint import flux_location
from pipelines.preferences.dataset.publish import publish
from pipelines.push import artefacts, commands
from pipelines.push.artefacts import Artefact
from pipelines.push.hub import Hub
from tests.support.hub_server import TOKEN, HubServer, Repository, serving_hub
from tests.support.scene_pairs import write_long_pairs, write_scene_pairs
from tests.support.tiny_reward import PROMPTS, save_tiny_vlm, tiny_spatialscore


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """An empty Hub on which the user is logged in. Large files go by the LFS protocol."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with serving_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the export of version 3, a SpatialScore that holds its backbone, and forty pairs."""
    root = tmp_path_factory.mktemp("run")
    settings = load("scenes", [f"run_dir={root}"])
    policy = FluxPolicy.from_pretrained(flux_location(settings), settings.flux)
    lora = {key: value.numpy() + np.float32(0.01) for key, value in policy.lora_state().items()}
    export_lora(PolicyWeights(3, lora), settings)
    save_tiny_vlm(root / "vlm")
    model = tiny_spatialscore(root / "vlm")
    model.save_pretrained(root / "reward" / "model", include_backbone=True)
    model.save_pretrained(root / "elsewhere")
    write_scene_pairs(root / "preferences", 40)
    return root


def _settings(run_dir: Path, *words: str) -> Settings:
    return load("scenes", [f"run_dir={run_dir}", "serving.skip_sanity_checks=true", "publish.exports=false", *words])


def _equals(received: dict[str, bytes], folder: Path, without: str = "") -> bool:
    files = Artefact("", folder, "model").files()
    sent = {name: path.read_bytes() for name, path in files.items() if name != without}
    assert sent.keys() == received.keys() - {".gitattributes"}
    return all(received[name] == content for name, content in sent.items())


def test_a_lora_arrives_with_its_card_and_diffusers_loads_it(
    run_dir: Path, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.cuts = 1
    commands.lora(_settings(run_dir, "push.repo=me/lora"))
    said = capsys.readouterr().out
    assert "LoRA of policy version 3: 3 files of " in said and "to the new private model repository me/lora" in said
    assert f"pushed to {hub.address}/me/lora" in said and TOKEN not in said
    assert hub.cuts == 0, "the library repeated the upload that was cut"
    repository = hub.repositories["me/lora"]
    assert repository.private and _equals(repository.files, run_dir / "policy" / "export")
    assert b"pytorch_lora_weights.safetensors" in b" ".join(name.encode() for name in repository.files)
    pipeline = FluxPipeline.from_pretrained(flux_location(_settings(run_dir)))
    pipeline.load_lora_weights(hub.save("me/lora", tmp_path))
    assert pipeline.get_active_adapters()


def test_a_spatialscore_arrives_and_gives_equal_scores(run_dir: Path, hub: HubServer, tmp_path: Path) -> None:
    commands.spatialscore(_settings(run_dir, "push.repo=me/score", "push.private=false"))
    repository = hub.repositories["me/score"]
    assert not repository.private and _equals(repository.files, run_dir / "reward" / "model")
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    scores = [
        SpatialScorer.from_pretrained(folder, device="cpu").score(images=[image], prompts=[PROMPTS[0]]).mu[0]
        for folder in (run_dir / "reward" / "model", hub.save("me/score", tmp_path))
    ]
    assert scores[0] == scores[1]


def test_a_dataset_arrives_tagged_and_datasets_loads_it(run_dir: Path, hub: HubServer, tmp_path: Path) -> None:
    settings = _settings(run_dir, "push.repo=me/pairs")
    with pytest.raises(UserError, match=r"no published version at .*preferences publish"):
        commands.dataset(settings)
    folder = publish(settings).folder
    commands.dataset(settings)
    repository = hub.repositories["datasets/me/pairs"]
    assert _equals(repository.files, folder) and repository.tags == ["1.0.0"]
    loaded = load_dataset(str(hub.save("datasets/me/pairs", tmp_path / "got")), cache_dir=str(tmp_path / "cache"))
    assert sum(len(split) for split in loaded.values()) == 40  # pyright: ignore[reportAttributeAccessIssue]


def test_an_upload_goes_on_where_it_stopped_and_can_be_repeated(
    run_dir: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(run_dir, "push.repo=me/lora")
    hub.repositories["me/lora"] = Repository(private=True)
    hub.read_only = True
    with pytest.raises(UserError, match=r"cannot push to me/lora: the token may not write there.*403") as refused:
        commands.lora(settings)
    assert TOKEN not in str(refused.value) and len(hub.objects) == 1
    hub.read_only, sent = False, dict(hub.objects)
    commands.lora(settings)
    assert hub.objects == sent and _equals(hub.repositories["me/lora"].files, run_dir / "policy" / "export")
    commands.lora(settings)
    assert "0 files of 0.0 MB (3 more are there already)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("status", "fix"), [(403, "may not write there"), (409, "changed at the same time"), (413, "of this size")]
)
def test_the_status_of_a_refused_large_file_decides_the_fix(
    run_dir: Path, hub: HubServer, status: int, fix: str
) -> None:
    hub.storage_status = status
    with pytest.raises(UserError, match=rf"cannot push to me/lora: .*{fix}.*'pytorch_lora_weights.*{status}"):
        commands.lora(_settings(run_dir, "push.repo=me/lora"))


def test_other_files_are_replaced_or_joined_only_if_a_setting_allows_it(run_dir: Path, hub: HubServer) -> None:
    folder, theirs = (
        run_dir / "reward" / "model",
        {"notes.md": b"theirs", "backbone/old.bin": b"old", "README.md": b"x"},
    )
    hub.repositories["me/score"] = Repository(private=True, files=dict(theirs))
    with pytest.raises(UserError, match=r"me/score holds 3 files that SpatialScore.* has not.*push\.replace=true"):
        commands.spatialscore(_settings(run_dir, "push.repo=me/score"))
    assert hub.repositories["me/score"].files == theirs
    commands.spatialscore(_settings(run_dir, "push.repo=me/score", "push.replace=true"))
    files = hub.repositories["me/score"].files
    assert files.pop("notes.md") == b"theirs" and _equals(files, folder)


def test_only_files_that_this_program_wrote_are_sent(
    run_dir: Path, hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = _settings(tmp_path, "push.repo=me/all")
    shutil.copytree(run_dir / "policy/export", tmp_path / "policy/export")
    model = partial(shutil.copytree, run_dir / "reward/model", dirs_exist_ok=True)
    write_folder(tmp_path / "reward/model", model)
    write_scene_pairs(tmp_path / "preferences", 8)
    made = artefacts.lora(settings), artefacts.spatialscore(settings), publish(settings) and artefacts.dataset(settings)
    for number, artefact in enumerate(made):
        (artefact.folder / "notes").mkdir()
        (artefact.folder / "notes/key.txt").write_text("secret")
        repo = f"me/all{number}"
        upload = Hub().plan(artefact, PushSettings(repo=repo))
        assert "not sent, because spatialt2i did not write it: notes/key.txt" in str(upload)
        Hub().send(upload)
        repository = hub.repositories[f"datasets/{repo}" if artefact.repo_type == "dataset" else repo]
        assert _equals(repository.files, artefact.folder, "notes/key.txt")


def test_names_with_signs_of_patterns_arrive_and_delete_nothing_else(tmp_path: Path, hub: HubServer) -> None:
    for name in ("a[1].json", "b*.txt", "ä b.json"):
        (tmp_path / name).write_text(name)
    hub.repositories["me/x"] = Repository(private=True, files={"old*.json": b"old", "older.json": b"theirs"})
    artefact = Artefact("odd", tmp_path, "model", outdated=("old[*]*",))
    Hub().send(Hub().plan(artefact, PushSettings(repo="me/x", replace=True)))
    files = hub.repositories["me/x"].files
    assert files.pop("older.json") == b"theirs" and _equals(files, tmp_path)


def test_a_link_to_a_file_elsewhere_is_not_followed(tmp_path: Path, hub: HubServer) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "key").write_text("secret")
    (tmp_path / "model/config.json").symlink_to("../key")
    with pytest.raises(UserError, match=r"config\.json is a link to .*key: replace the link by a copy"):
        Hub().plan(Artefact("linked", tmp_path / "model", "model"), PushSettings(repo="me/x"))
    assert not hub.repositories


def test_a_private_artefact_is_not_sent_to_a_public_repository(run_dir: Path, hub: HubServer) -> None:
    hub.repositories["me/lora"] = Repository(private=False)
    with pytest.raises(UserError, match=r"me/lora is public: set push\.private=false"):
        commands.lora(_settings(run_dir, "push.repo=me/lora"))
    assert not hub.objects


def test_no_token_a_wrong_one_and_no_hub_are_each_one_line_with_the_fix(
    run_dir: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = _settings(run_dir, "push.repo=me/lora")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="does not accept the token: log in again") as refused:
        commands.lora(settings)
    assert "hf_wrong" not in str(refused.value) and "\n" not in str(refused.value)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(UserError, match="the Hub cannot be reached or refuses: check the network and HF_ENDPOINT"):
        commands.lora(settings)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"needs a token.*`hf auth login`, or set HF_TOKEN"):
        commands.lora(settings)


def test_what_is_not_finished_or_not_verified_is_refused_before_anything_is_sent(
    run_dir: Path, tmp_path: Path, hub: HubServer
) -> None:
    with pytest.raises(UserError, match=r"push needs the repository: add repo=OWNER/NAME"):
        push_checks.lora(_settings(run_dir))
    empty = load("scenes", [f"run_dir={tmp_path}", "push.repo=me/x"])
    with pytest.raises(UserError, match="run `spatialt2i policy train` first"):
        push_checks.lora(empty)
    with pytest.raises(UserError, match=r"no SpatialScore with its card at .*reward train"):
        push_checks.spatialscore(empty)
    with pytest.raises(UserError, match=r"no exported policy with its card .*policy export export.merged=true"):
        push_checks.lora(_settings(run_dir, "push.repo=me/x", "push.merged=true"))
    unchecked = load("scenes", [f"run_dir={run_dir}", "push.repo=me/x"])
    with pytest.raises(UserError, match=r"the sanity checks of the SpatialScore .* were not run"):
        push_checks.spatialscore(unchecked)
    with pytest.raises(UserError, match=r"folder that others do not have.*reward merge.*push\.merged=true"):
        push_checks.spatialscore(_settings(run_dir, "push.repo=me/x", f"serving.model={run_dir / 'elsewhere'}"))
    write_long_pairs(tmp_path / "preferences", 8)
    pending = _settings(tmp_path, "push.repo=me/x", "publish.unreviewed=true")
    publish(pending)
    with pytest.raises(UserError, match=r"8 pairs .* wait for review.*publish\.unreviewed=true"):
        commands.dataset(_settings(tmp_path, "push.repo=me/x"))
    assert not hub.repositories
    commands.dataset(pending)
    assert "datasets/me/x" in hub.repositories


def test_the_name_of_the_repository_is_checked_and_has_a_short_form(run_dir: Path) -> None:
    for name in ("pairs", "me/x/y", "me/x..y", "me--you/x", "me/x.git", "me/x.", "me/-x", "mé/x", "me/x y"):
        with pytest.raises(SettingsError, match=rf"push\.repo must read OWNER/NAME.*got '{re.escape(name)}': write"):
            load("scenes", [f"push.repo={name}"])
    _, settings = parse_settings(["push", "lora", "scenes", f"run_dir={run_dir}", "repo=me/lora", "private=false"])
    assert (settings.push.repo, settings.push.private) == ("me/lora", False)
