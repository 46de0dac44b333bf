"""Which SpatialScore may steer a policy: one that the doctor has passed, with these very weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from actors.types import Scores
from conf import Settings, load
from pipelines.policy.stage import run_policy
from pipelines.reward.data import Pair
from pipelines.reward.sanity_checks import check_2x2, check_image_size, check_noise_images
from pipelines.reward.sanity_report import SanityCheck, require_passed, write_sanity_report
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore

PASSED = SanityCheck("mirror", True, 0.0, "at least 0", "")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A run that has a SpatialScore."""
    save_tiny_vlm(tmp_path / "vlm")
    tiny_spatialscore(tmp_path / "vlm").save_pretrained(tmp_path / "reward" / "model")
    return load("scenes", [f"run_dir={tmp_path}"])


def test_only_an_examined_model_steers_a_policy(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"was not examined: run `spatialt2i reward check`, or set serving\.skip_sanity_checks"
    ):
        run_policy(settings)
    require_passed(replace(settings, serving=replace(settings.serving, skip_sanity_checks=True)))
    write_sanity_report(settings, [PASSED, replace(PASSED, name="2 x 2", passed=False)])
    with pytest.raises(ValueError, match=r"failed at the doctor's: 2 x 2\."):
        run_policy(settings)
    write_sanity_report(settings, [PASSED])
    require_passed(settings)
    other = load("scenes", [f"run_dir={tmp_path / 'other'}", f"serving.model={tmp_path / 'reward' / 'model'}"])
    require_passed(other)  # another run may use it too
    head = tmp_path / "reward" / "model" / "head.safetensors"
    head.write_bytes(head.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="was not examined"):
        require_passed(settings)
    assert json.loads((tmp_path / "reward" / "doctor.json").read_text())["checks"][0]["name"] == "mirror"


class Brightness:
    """Likes bright images, or such as are as bright as the prompt's number; `sharp`: only small ones."""

    def __init__(self, reads: bool, largest: int = 10**6) -> None:
        self._reads, self._largest = reads, largest

    def score(self, *, images: list[np.ndarray], prompts: list[str]) -> Scores:
        light = [float(image.mean()) if image.shape[0] <= self._largest else 0.0 for image in images]
        mu = [-abs(at - float(p)) if self._reads else at for at, p in zip(light, prompts, strict=True)]
        return Scores(np.asarray(mu, np.float32), np.ones(len(mu), np.float32))


def test_the_doctor_s_checks_tell_good_from_bad() -> None:
    """A model that reads the prompt passes; one that only likes bright images, or small ones, does not."""
    dark, bright = (np.full((8, 8, 3), level, np.uint8) for level in (10, 200))
    pairs = [Pair("", "10", "200", dark, bright, "perturbed", 1), Pair("", "200", "10", bright, dark, "perturbed", 1)]
    reader, taste, small = Brightness(True), Brightness(False), Brightness(True, largest=8)
    for check, bad in ((check_2x2, taste), (check_noise_images, taste), (check_image_size, small)):
        assert check(reader, pairs).passed, check  # pyright: ignore[reportArgumentType]
        assert not check(bad, pairs).passed, check  # pyright: ignore[reportArgumentType]
