"""Each sanity check passes for a correct scorer and fails for a wrong one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.spatialscore import SpatialScorer
from actors.spatialscore import load as load_model
from actors.types import Scores
from conf import UserError, load
from pipelines.reward import weight_checks
from pipelines.reward.data import Pair
from pipelines.reward.sanity_checks import run_sanity_checks, table
from pipelines.reward.sanity_report import SanityCheck
from pipelines.reward.score_checks import (
    check_2x2,
    check_blank_images,
    check_image_size,
    check_mirror,
    check_noise_images,
    check_scores_differ,
    check_shuffled_prompts,
    check_sides,
)
from pipelines.reward.weight_checks import check_lora_trained, check_reload
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore


@dataclass(frozen=True)
class SideScorer:
    """Scores the brightness of the left half minus that of the right half, as the prompt asks for. Faults by name."""

    reads_prompt: bool = True
    reads_image: bool = True  # otherwise the score depends on the prompt only
    prefers_left: bool = False  # ignores the prompt's side, as a model that has learned a shortcut
    largest: int = 10**6  # larger images score 0
    prefers_uniform: bool = False
    exchanges_sides: bool = False  # takes left for right

    def score(self, images: Sequence[np.ndarray], prompts: Sequence[str]) -> Scores:
        mu = [self._score(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
        return Scores(np.array(mu, np.float32), np.ones(len(mu), np.float32))

    def _score(self, image: np.ndarray, prompt: str) -> float:
        half = image.shape[1] // 2
        difference = float(image[:, :half].mean() - image[:, half:].mean())
        if self.prefers_uniform:
            return -abs(difference)
        if not self.reads_image:
            return float(len(prompt))
        if image.shape[0] > self.largest:
            return 0.0
        difference = -difference if self.exchanges_sides else difference
        return difference if self.prefers_left or not self.reads_prompt or "left" in prompt else -difference


def _image(left: int, right: int) -> np.ndarray:
    image = np.full((8, 8, 3), left, np.uint8)
    image[:, 4:] = right
    return image


LEFT, RIGHT = _image(200, 10), _image(10, 200)
PAIRS = [
    Pair("0", "light left", "light right", LEFT, RIGHT, "perturbed", 1),
    Pair("1", "light right", "light left", RIGHT, LEFT, "perturbed", 1),
]
FAINT = Pair("2", "light left", None, _image(90, 80), RIGHT, "perturbed", 1)
LEFT_PAIRS = [PAIRS[0]] * 20

CORRECT = SideScorer()


@pytest.mark.parametrize(
    ("check", "faulty", "pairs"),
    [
        (check_shuffled_prompts, SideScorer(reads_prompt=False), PAIRS),
        (check_blank_images, SideScorer(prefers_uniform=True), PAIRS),
        (check_noise_images, SideScorer(prefers_uniform=True), PAIRS),
        (check_blank_images, SideScorer(reads_image=False), PAIRS),
        (check_noise_images, SideScorer(reads_image=False), PAIRS),
        (check_2x2, SideScorer(reads_image=False), PAIRS),
        (check_2x2, SideScorer(reads_prompt=False), PAIRS),
        (check_2x2, SideScorer(exchanges_sides=True), PAIRS),
        (check_sides, SideScorer(exchanges_sides=True), PAIRS),
        (check_sides, SideScorer(reads_prompt=False), PAIRS),
        (check_mirror, SideScorer(prefers_left=True), LEFT_PAIRS),
        (check_image_size, SideScorer(largest=8), PAIRS),
        (check_scores_differ, SideScorer(reads_image=False), [*PAIRS, FAINT]),
    ],
)
def test_a_score_check_tells_a_correct_scorer_from_a_faulty_one(
    check: Callable[[SpatialScorer, Sequence[Pair]], SanityCheck], faulty: SideScorer, pairs: list[Pair]
) -> None:
    passed = check(cast(SpatialScorer, CORRECT), pairs)
    failed = check(cast(SpatialScorer, faulty), pairs)
    assert passed.passed, passed
    assert not failed.passed, failed
    assert failed.if_failed in table([failed])
    assert passed.if_failed not in table([passed])


def test_an_image_is_compared_under_a_prompt_of_another_group() -> None:
    """Neighbouring rows may be of one prompt, or nearly: no right model scores an image higher under the same text."""
    rows = [(PAIRS[0], "a", "light left"), (PAIRS[0], "a", "light left"), (PAIRS[0], "a", "a light left")]
    rows += [(PAIRS[1], "b", "light right"), (PAIRS[1], "b", "light right")]
    pairs = [replace(pair, group_id=group, prompt=prompt) for pair, group, prompt in rows]
    assert check_shuffled_prompts(cast(SpatialScorer, CORRECT), pairs).value == 1.0
    no_groups = [replace(pair, group_id="") for pair in (pairs[0], pairs[1], pairs[3])]
    assert check_shuffled_prompts(cast(SpatialScorer, CORRECT), no_groups).value == 1.0


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    """A SpatialScore whose LoRA differs from its initial values."""
    save_tiny_vlm(tmp_path / "vlm")
    tiny_spatialscore(tmp_path / "vlm").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_weight_checks_notice_an_untrained_lora_and_other_weights_in_memory(model_dir: Path) -> None:
    scorer = SpatialScorer.from_pretrained(model_dir)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pairs = [Pair("0", "a red circle left of a blue square", None, images[0], images[1], "perturbed", 1)]
    assert check_reload(scorer, str(model_dir), pairs).passed
    assert check_lora_trained(str(model_dir)).passed
    with torch.no_grad():
        scorer.model.head.layers[2].bias.add_(0.01)
    assert not check_reload(scorer, str(model_dir), pairs).passed
    adapter = load_file(model_dir / "adapter_model.safetensors")
    untrained = next(name for name in adapter if "lora_B" in name)
    save_file({**adapter, untrained: torch.zeros_like(adapter[untrained])}, model_dir / "adapter_model.safetensors")
    assert not check_lora_trained(str(model_dir)).passed


def test_the_model_leaves_its_device_while_its_copy_is_checked_there(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that is nearly filled by a 32B model would be out of memory with two of them."""
    scorer = SpatialScorer.from_pretrained(model_dir)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    pairs = [Pair("0", "a red circle left of a blue square", None, images[0], images[1], "perturbed", 1)]
    steps: list[str] = []
    monkeypatch.setattr(weight_checks, "device_of", lambda scorer: "cpu:0")  # this machine has no GPU
    monkeypatch.setattr(scorer.model, "to", steps.append)
    load_scorer = SpatialScorer.from_pretrained

    def load_copy(folder: str, *, device: str, batch_images: int, merge: bool) -> SpatialScorer:
        steps.append(f"copy on {device}")
        return load_scorer(folder, batch_images=batch_images, merge=merge)

    monkeypatch.setattr(SpatialScorer, "from_pretrained", load_copy)
    assert check_reload(scorer, str(model_dir), pairs).passed
    assert steps == ["cpu", "copy on cpu:0", "cpu:0"]


def test_checks_without_a_model_are_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `spatialt2i reward train` first"):
        run_sanity_checks(load("scenes", [f"run_dir={tmp_path}"]))


def test_checks_of_a_merged_model_are_a_user_error(model_dir: Path, tmp_path: Path) -> None:
    load_model(model_dir).merge().save_pretrained(tmp_path / "merged")
    with pytest.raises(UserError, match="check the directory that it was merged from"):
        run_sanity_checks(load("scenes", [f"run_dir={tmp_path}", f"serving.model={tmp_path / 'merged'}"]))
