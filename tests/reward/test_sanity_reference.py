"""The checks against an independent computation pass for a real SpatialScore, and fail for broken ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from actors.spatialscore import SpatialScore, SpatialScorer
from actors.spatialscore.model import ScoreHead
from actors.spatialscore.processor import ScoreBatch
from pipelines.reward.data import Pair
from pipelines.reward.sanity_reference import check_forward, check_head_precision, check_preprocessing
from pipelines.reward.weight_checks import check_reload, check_reward_token
from tests.support.tiny_reward import PROMPTS, save_tiny_vlm, tiny_spatialscore


@dataclass(frozen=True)
class Saved:
    """One SpatialScore in both dtypes."""

    vlm: Path
    float32: Path
    bfloat16: Path


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """A tiny SpatialScore on disk, with a float32 and with a bfloat16 backbone."""
    folder = tmp_path_factory.mktemp("reference")
    save_tiny_vlm(folder / "vlm")
    model = tiny_spatialscore(folder / "vlm")
    model.save_pretrained(folder / "float32")
    model.config = replace(model.config, dtype="bfloat16")
    model.save_pretrained(folder / "bfloat16")
    return Saved(folder / "vlm", folder / "float32", folder / "bfloat16")


@pytest.fixture(params=["float32", "bfloat16"])
def scorer(saved: Saved, request: pytest.FixtureRequest) -> SpatialScorer:
    """A fresh scorer that a test may break."""
    return SpatialScorer.from_pretrained(getattr(saved, request.param))


@pytest.fixture(scope="module")
def pairs(images: np.ndarray) -> list[Pair]:
    """Two pairs under prompts of different lengths."""
    return [Pair(str(i), PROMPTS[i], None, images[2 * i], images[2 * i + 1], "perturbed", 1) for i in range(2)]


def test_a_right_model_passes_in_float32_and_in_bfloat16(
    scorer: SpatialScorer, saved: Saved, pairs: list[Pair]
) -> None:
    model = str(getattr(saved, scorer.model.config.dtype))
    for check in (
        check_preprocessing(scorer, pairs),
        check_forward(scorer, pairs),
        check_head_precision(scorer, pairs),
        check_reload(scorer, model, pairs),
        check_reward_token(scorer, model),
    ):
        assert check.passed, check


def _flat_positions(model: SpatialScore) -> None:
    """1-D rotary positions: every token of a row gets its index on all three axes."""
    original = model.hidden_states

    def hidden_states(batch: ScoreBatch) -> torch.Tensor:
        flat = torch.arange(batch.input_ids.shape[1]).expand_as(batch.position_ids)
        return original(replace(batch, position_ids=flat))

    model.hidden_states = hidden_states


def _token_before(model: SpatialScore) -> None:
    """The score is read one token before `<reward>`."""
    original = model.hidden_states
    model.hidden_states = lambda batch: original(batch).roll(1, dims=1)


def _left_and_right(model: SpatialScore) -> None:
    """The columns of image tokens are exchanged, as if the image were mirrored."""
    original = model.hidden_states

    def hidden_states(batch: ScoreBatch) -> torch.Tensor:
        positions = batch.position_ids.clone()
        for row, ids in enumerate(batch.input_ids):
            at_image = ids == model.processor.template.image_id
            columns = positions[2, row, at_image]
            positions[2, row, at_image] = columns.min() + columns.max() - columns
        return original(replace(batch, position_ids=positions))

    model.hidden_states = hidden_states


@pytest.mark.parametrize("fault", [_flat_positions, _token_before, _left_and_right])
def test_a_wrong_forward_pass_is_found(
    scorer: SpatialScorer, pairs: list[Pair], fault: Callable[[SpatialScore], None]
) -> None:
    fault(scorer.model)
    assert not check_forward(scorer, pairs).passed


def test_images_of_another_size_are_found(scorer: SpatialScorer, pairs: list[Pair]) -> None:
    """As the published processor file does, whose bounds used to replace spatialscore.pixels."""
    scorer.model.processor.image_processor.size = {"shortest_edge": 3136, "longest_edge": 12845056}
    check = check_preprocessing(scorer, pairs)
    assert not check.passed
    assert "another size" in check.finding
    assert not check_forward(scorer, pairs).passed


class _RoundingHead(nn.Module):
    """A head that computes in bfloat16, from weights of any dtype."""

    def __init__(self, head: ScoreHead) -> None:
        super().__init__()
        self.layers = head.layers

    def forward(self, hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            mu, log_sigma = self.layers(hidden).unbind(-1)
        return mu.float(), log_sigma.exp().float()


def test_a_head_that_computes_in_bfloat16_is_found(scorer: SpatialScorer, pairs: list[Pair]) -> None:
    scorer.model.head = _RoundingHead(scorer.model.head)  # pyright: ignore[reportAttributeAccessIssue]
    check = check_head_precision(scorer, pairs)
    assert not check.passed
    assert check.value == 1.0


def test_a_head_with_bfloat16_weights_is_found(scorer: SpatialScorer, pairs: list[Pair]) -> None:
    for parameter in scorer.model.head.parameters():
        parameter.data = parameter.data.bfloat16().float()
    assert check_head_precision(scorer, pairs).passed  # float32 all the same
    scorer.model.head = _RoundingHead(scorer.model.head.bfloat16())  # pyright: ignore[reportAttributeAccessIssue]
    assert "not float32" in check_head_precision(scorer, pairs).finding


def test_another_trained_embedding_row_is_found(saved: Saved, tmp_path: Path) -> None:
    scorer = SpatialScorer.from_pretrained(saved.float32)
    folder = shutil.copytree(saved.float32, tmp_path / "model")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["trainable_token_indices"]["embed_tokens"] = [scorer.model.reward_id - 1]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    check = check_reward_token(scorer, str(folder))
    assert not check.passed
    assert check.finding.endswith(str(scorer.model.reward_id - 1))
