"""Judging and measuring by Ray actors: the same files as in this process, and errors as one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import UserError
from pipelines.benchmark.judging import judge_sides, name_judge
from pipelines.benchmark.measuring import Measurer, measure_sides
from pipelines.benchmark.other_measures import STATISTICS
from pipelines.common.paths import run_paths
from tests.support.benchmark_run import judge_here, rendered_run

pytestmark = [pytest.mark.ray, pytest.mark.slow]
NAMES = "benchmark.names=[tiif,geneval,spatialgeneval,geneval2]"
OVERRIDES = (NAMES, "benchmark.max_prompts=4", "benchmark.chunk_images=3")
IMAGES = 4 + 16 + 4 + 4


def test_actors_judge_and_measure_as_this_process_does(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, work = rendered_run(tmp_path / "run", OVERRIDES)
    paths, lines = run_paths(settings), list[str]()
    result = judge_sides(settings, work, ("base",), paths, lines.append)
    assert result.images == IMAGES and not result.missing
    assert lines[-1].endswith(f"{IMAGES} of {IMAGES} images have a readable judgement")
    files = [paths.benchmark_judgements(each.name, name_judge(settings, each).folder, "base") for each in work]
    contents = [file.read_bytes() for file in files]
    for file in files:
        for part in file.with_suffix(".parts").glob("*.parquet"):
            part.unlink()
    judge_here(settings, work, ("base",), paths)
    assert [file.read_bytes() for file in files] == contents

    measure_sides(settings, work, paths, lines.append)
    assert lines[-1].startswith("benchmark: image statistics") and f"{IMAGES} of {IMAGES} pairs of images" in lines[-1]
    measured = [paths.benchmark_measured(each.name, STATISTICS) for each in work]
    contents = [file.read_bytes() for file in measured]
    for file in measured:
        for part in file.with_name(f"{file.stem}.parts").glob("*.json"):
            part.unlink()
    measurer = Measurer(STATISTICS, settings)
    measure_sides(settings, work, paths, run=lambda _, __, chunks, ___: [*map(measurer.measure, chunks)] and None)
    assert [file.read_bytes() for file in measured] == contents

    # A service that takes no call leaves its judgements for another start, and says why.
    monkeypatch.setenv("BENCH_KEY", "sk-secret")
    refused = ["benchmark.judge=endpoint", "tiif_judge.url=http://127.0.0.1:9/v1", "tiif_judge.retries=0"]
    served, tiif = rendered_run(tmp_path / "run", [*OVERRIDES, *refused, "tiif_judge.key_variable=BENCH_KEY"])
    result = judge_sides(served, tiif[:1], ("base",), paths, lines.append)
    assert dict(result.missing) == {"call failed": 4} and "tiif_judge at http://127.0.0.1:9/v1" in result.unanswered
    paths.benchmark_images("tiif", "policy").rename(tmp_path / "away")
    with pytest.raises(UserError, match="no images of policy"):
        judge_sides(settings, work[:1], ("policy",), paths, lines.append)
