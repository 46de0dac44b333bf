"""What else changed: image statistics and other rewards on the images of base and policy."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from actors.images import decode_image
from actors.json_files import record_or_none
from actors.rewards.clip import ClipScorer
from conf import Settings, SettingsError, load
from pipelines.benchmark.measuring import MeasureChunk, Measurer, check_rewards, measure_sides
from pipelines.benchmark.other_measures import STATISTICS, Measured, read_measured
from pipelines.benchmark.report import write_report
from pipelines.benchmark.work import Work, files_of
from pipelines.common.paths import RunPaths, run_paths
from pipelines.policy.image_statistics import image_statistics
from tests.support.benchmark_run import judge_here, rendered_run
from tests.support.tiny_clip import save_tiny_clip

SIDES = ("base", "policy")


class Here:
    """Measures in this process, and counts pairs."""

    def __init__(self) -> None:
        self.pairs = 0

    def __call__(
        self, settings: Settings, name: str, chunks: Sequence[MeasureChunk], log: Callable[[str], None]
    ) -> None:
        measurer = Measurer(name, settings)
        self.pairs += sum(measurer.measure(chunk) for chunk in chunks)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[Work]]:
    """A run with images of TIIF-Bench, a tiny PickScore, and measures of both."""
    clip = save_tiny_clip(tmp_path_factory.mktemp("clip"))
    settings, work = rendered_run(
        tmp_path_factory.mktemp("other") / "run",
        [
            "benchmark.names=[tiif]", "benchmark.other_rewards=[PickScore]", f"baselines.models.PickScore={clip}",
            "benchmark.chunk_images=8",
        ],
    )  # fmt: skip
    here = Here()
    measure_sides(settings, work, run_paths(settings), run=here)
    assert here.pairs == 2 * work[0].images
    return settings, work


def images_of(paths: RunPaths, name: str) -> list[np.ndarray]:
    """The images of base and policy."""
    return [decode_image((paths.benchmark_images("tiif", side) / name).read_bytes()) for side in SIDES]


def measured(paths: RunPaths, name: str) -> Measured:
    found = record_or_none(str(paths.benchmark_measured("tiif", name)), Measured)
    assert found
    return found


def test_values_are_those_of_the_images_of_one_seed(run: tuple[Settings, list[Work]]) -> None:
    settings, (work, *_) = run
    paths, files = run_paths(settings), files_of(work)
    statistics, margins = measured(paths, STATISTICS), measured(paths, "PickScore")
    clip = settings.baselines.models["PickScore"]
    from transformers import CLIPModel

    scorer = ClipScorer(CLIPModel.from_pretrained(clip), clip, "cpu")
    assert statistics.items == margins.items == [item.id for item, _, _ in files]
    for number in (0, len(files) - 1):
        item, _, name = files[number]
        base, policy = images_of(paths, name)
        expected = [*image_statistics(base[None])[0], *image_statistics(policy[None])[0]]
        assert statistics.values[number] == pytest.approx(expected)
        scores = scorer.score([policy, base], [item.prompt] * 2).mu
        assert margins.values[number] == [pytest.approx(float(scores[0] - scores[1]), abs=1e-4)]


def test_the_report_shows_paired_differences(run: tuple[Settings, list[Work]]) -> None:
    settings, work = run
    paths = run_paths(settings)
    judge_here(settings, work, SIDES, paths)
    text = write_report(settings, work, SIDES, paths)
    assert "What else changed, policy - base" in text and "tiif, PickScore" in text and "policy preferred: " in text
    rows = {row["name"]: row for row in json.loads(paths.benchmark_results.read_text())["other_measures"]}
    assert list(rows) == ["edge density", "color entropy", "saturation", "sharpness", "PickScore"]
    values = np.array(measured(paths, STATISTICS).values)
    for number, name in enumerate(("edge density", "color entropy", "saturation", "sharpness")):
        assert rows[name]["base"]["value"] == pytest.approx(values[:, number].mean())
        difference = (values[:, number + 4] - values[:, number]).mean()
        assert rows[name]["difference"]["value"] == pytest.approx(difference)
        assert rows[name]["difference"]["low"] < difference < rows[name]["difference"]["high"]
    margins = np.array(measured(paths, "PickScore").values)[:, 0]
    assert rows["PickScore"]["difference"]["value"] == pytest.approx(margins.mean())
    assert rows["PickScore"]["preferred"]["value"] == pytest.approx((margins > 0).mean())
    assert "What else changed" in paths.benchmark_report.read_text()


def test_only_chunks_whose_images_changed_are_measured_again(run: tuple[Settings, list[Work]]) -> None:
    settings, work = run
    paths, here = run_paths(settings), Here()
    before = paths.benchmark_measured("tiif", STATISTICS).read_bytes()
    measure_sides(settings, work, paths, run=here)
    assert here.pairs == 0
    name = files_of(work[0])[0][2]
    changed, other = (paths.benchmark_images("tiif", side) / name for side in SIDES)
    original = changed.read_bytes()
    changed.write_bytes(other.read_bytes())
    measure_sides(settings, work, paths, run=here)
    assert here.pairs == 2 * 8
    assert measured(paths, "PickScore").values[0] == [0.0]
    changed.unlink()
    measure_sides(settings, work, paths, run=here)
    assert len(measured(paths, STATISTICS).items) == work[0].images - 1
    changed.write_bytes(original)
    measure_sides(settings, work, paths, run=here)
    assert paths.benchmark_measured("tiif", STATISTICS).read_bytes() == before


def test_a_missing_score_is_left_out(run: tuple[Settings, list[Work]], tmp_path: Path) -> None:
    _, work = run
    other = load("scenes", [f"run_dir={tmp_path}", "benchmark.other_rewards=[HPSv3]"])
    file = run_paths(other).benchmark_measured("tiif", "HPSv3")
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"items": ["a", "b", "c"], "values": [[1.0], [math.nan], [0.0]]}))
    (row,) = read_measured(other, work, run_paths(other))
    assert (row.pairs, row.difference.value) == (2, 0.5)
    assert row.preferred and row.preferred.value == 0.75
    with pytest.raises(SettingsError, match=r"HPSv3 has 8\.3 billion parameters"):
        check_rewards(other)
    with pytest.raises(SettingsError, match="other_rewards"):
        load("scenes", ["benchmark.other_rewards=[GPT-5]"])
