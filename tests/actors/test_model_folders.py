"""A model folder is data: code in it is never run, and nobody is asked on the terminal whether to run it."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.policy.flux import FluxPolicy
from actors.rewards.detector import DetectorReward
from actors.spatialscore import SpatialScoreConfig, SpatialScorer, build
from conf.detector import DetectorSettings
from conf.flux import FluxSettings
from pipelines.scenes import checkpoints_dir
from tests.support.tiny_owlv2 import save_tiny_owlv2
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

ROOT = Path(__file__).parents[2]
AUTO = (
    "AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoTokenizer", "AutoProcessor",
    "AutoImageProcessor", "AutoVideoProcessor", "AutoFeatureExtractor",
)  # fmt: skip


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The questions on the terminal, which are answered with yes."""
    questions: list[str] = []

    def answer(question: str = "") -> str:
        questions.append(question)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    return questions


def add_code(folder: Path, marker: Path) -> None:
    """Adds a module to every folder of a model, and names its class in every configuration."""
    for path in [folder, *(entry for entry in folder.rglob("*") if entry.is_dir())]:
        (path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Evil: pass\n")
        for file in path.glob("*.json"):
            content = json.loads(file.read_text())
            if isinstance(content, dict) and "config" in file.name:
                names: dict[str, Any] = dict.fromkeys(AUTO, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
                content["auto_map"] = names
                file.write_text(json.dumps(content))


def load_scorer(tmp_path: Path) -> Callable[[], object]:
    save_tiny_vlm(tmp_path / "vlm")
    tiny_spatialscore(tmp_path / "vlm").save_pretrained(tmp_path / "model")
    return lambda: SpatialScorer.from_pretrained(tmp_path / "model")


def load_scorer_with_code_as_tokenizer(tmp_path: Path) -> Callable[[], object]:
    """No class of the library fits, so that it asks whether to run the folder's own."""
    load = load_scorer(tmp_path)
    file = tmp_path / "model" / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "Evil"}))
    (tmp_path / "model" / "tokenizer.json").unlink()
    return load


def build_score(tmp_path: Path) -> Callable[[], object]:
    save_tiny_vlm(tmp_path / "vlm")
    return lambda: build(SpatialScoreConfig(model=str(tmp_path / "vlm"), pixels=4096))


def load_flux(tmp_path: Path) -> Callable[[], object]:
    shutil.copytree(checkpoints_dir("flux"), tmp_path / "model")
    return lambda: FluxPolicy.from_pretrained(str(tmp_path / "model"), FluxSettings())


def load_flux_with_code_as_text_encoder(tmp_path: Path) -> Callable[[], object]:
    load = load_flux(tmp_path)
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"text_encoder": ["evil", "Evil"]}))
    return load


def load_detector(tmp_path: Path) -> Callable[[], object]:
    save_tiny_owlv2(tmp_path / "model")
    settings = DetectorSettings(model=str(tmp_path / "model"))
    return lambda: DetectorReward(settings, {}).find(np.zeros((1, 32, 32, 3), np.uint8), [["cat"]])


@pytest.mark.parametrize(
    ("prepare", "refused"),
    [
        (load_scorer, False),
        (load_scorer_with_code_as_tokenizer, True),
        (build_score, False),
        (load_flux, False),
        (load_flux_with_code_as_text_encoder, True),
        (load_detector, False),
    ],
)
def test_code_in_a_model_folder_is_not_run_and_nobody_is_asked(
    prepare: Callable[[Path], Callable[[], object]], refused: bool, tmp_path: Path, asked: list[str]
) -> None:
    load, marker = prepare(tmp_path), tmp_path / "the code was run"
    add_code(tmp_path, marker)
    if refused:
        with pytest.raises((ValueError, ImportError, AttributeError)):
            load()
    else:
        load()
    assert not marker.exists() and asked == []


def test_every_class_that_follows_auto_map_is_told_not_to() -> None:
    """Without the argument, the library asks on the terminal, and a worker without a terminal waits."""
    calls = [
        (path, call)
        for folder in ("actors", "pipelines")
        for path in (ROOT / folder).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "from_pretrained"
        if isinstance(call.func.value, ast.Name) and call.func.value.id.startswith("Auto")
        if not call.func.value.id.startswith("Autoencoder")
    ]
    assert len(calls) >= 8
    for path, call in calls:
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert arguments.get("trust_remote_code") == "False", f"{path}:{call.lineno}"
