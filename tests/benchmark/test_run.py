"""Judging and reporting the benchmarks of the scenes world, by the exact checker over real HTTP, without Ray."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.files import write_file
from actors.images import decode_image
from conf import Settings, UserError, load
from pipelines.benchmark.commands import sides_to_judge
from pipelines.benchmark.exchange import export_images, import_images
from pipelines.benchmark.items import Answer
from pipelines.benchmark.judging import JudgeResult, name_judge
from pipelines.benchmark.manifest import read_manifest
from pipelines.benchmark.report import write_report
from pipelines.benchmark.work import Work, files_of, load_work
from pipelines.common.paths import run_paths
from pipelines.scenes.checker import check
from pipelines.scenes.grammar import parse
from tests.support.benchmark_run import TroubledReply, judge_here, judgements_of, rendered_run
from tests.support.openai_server import Behaviour, serving

SIDES = ("base", "policy")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, list[Work]]:
    """A run with rendered images."""
    return rendered_run(tmp_path_factory.mktemp("benchmarks") / "run")


@pytest.fixture(scope="module")
def judged(run: tuple[Settings, list[Work]]) -> JudgeResult:
    settings, work = run
    return judge_here(settings, work, SIDES, run_paths(settings))


@pytest.fixture(scope="module")
def report(run: tuple[Settings, list[Work]], judged: JudgeResult) -> str:
    settings, work = run
    page = run_paths(settings).evaluation_report
    write_file(str(page), b"<p>before</p><!-- benchmarks -->old<!-- end of benchmarks --><p>after</p>")
    return write_report(settings, work, SIDES, run_paths(settings))


def content_of(settings: Settings) -> dict[str, Any]:
    return json.loads(run_paths(settings).benchmark_results.read_text())


def cell_of(settings: Settings, benchmark: str, table: str, name: str) -> dict[str, Any]:
    rows = next(each for each in content_of(settings)["benchmarks"] if each["name"] == benchmark)["cells"]
    return next(row for row in rows if (row["table"], row["name"]) == (table, name))


def test_dpg_s_raw_spatial_relations_are_the_relations_that_the_checker_finds(
    run: tuple[Settings, list[Work]], report: str
) -> None:
    settings, (dpg, *_) = run
    for side in SIDES:
        right = total = 0
        for item, _, name in files_of(dpg):
            image = decode_image((run_paths(settings).benchmark_images("dpg", side) / name).read_bytes())
            verdict = check(image, parse(item.prompt).relations)
            right, total = right + verdict.right, total + len(verdict.outcomes)
        cell = cell_of(settings, "dpg", "L2", "relation - spatial")["values"][side]["fixed"]
        assert (cell["numerator"], cell["denominator"], cell["missing"]) == (right, total, 0)


def test_the_report_shows_both_rules_the_paper_and_what_compares(
    run: tuple[Settings, list[Work]], judged: JudgeResult, report: str
) -> None:
    settings, work = run
    assert judged.images == 2 * sum(each.images for each in work) and not judged.missing
    cells = {cell["title"]: cell for cell in content_of(settings)["paper_cells"]}
    assert {"DPG, Relation Spatial", "TIIF short, BR", "TIIF long, AR", "Unibench short, 2D"} <= cells.keys()
    spatial = cells["DPG, Relation Spatial"]
    assert spatial["paper_base"] == "87.1" and "scenes world" in spatial["comparable"]
    assert spatial["values"]["policy"]["value"] > spatial["values"]["base"]["value"] + 10
    assert spatial["difference"]["low"] > 0
    assert "DPG-Bench (dpg), judge: exact checker" in report and "L2 relation - spatial, official" in report
    paths = run_paths(settings)
    page = paths.benchmark_report.read_text()
    assert page.count("<svg") == 5 and "http://" not in page.replace("http://www.w3.org", "")
    assert "not comparable: prompts and images are those of the scenes world" in page
    assert paths.benchmark_section.read_text() in paths.evaluation_report.read_text()
    assert paths.evaluation_report.read_text().startswith("<p>before</p><!-- benchmarks --><h2>Public benchmarks</h2>")


def test_the_manifest_names_everything_that_decides_the_figures(
    run: tuple[Settings, list[Work]], judged: JudgeResult
) -> None:
    settings, work = run
    tiif = next(each for each in work if each.name == "tiif")
    file = run_paths(settings).benchmark_judgements("tiif", name_judge(settings, tiif).folder, "base")
    manifest = read_manifest(file)
    assert manifest is not None
    assert manifest["judge"]["name"] == "exact checker" and manifest["wording"]["origin"].startswith("of this project")
    assert len(manifest["images"]["files"]) == tiif.images and len(manifest["data"]["sha256"]) == 64
    assert manifest["judgements"] == {
        "images": tiif.images,
        "readable": tiif.images,
        "missing": {},
        "calls": tiif.images,
    }


def test_a_service_with_every_trouble_gives_the_exact_checker_s_answers_and_is_paid_once(
    run: tuple[Settings, list[Work]], judged: JudgeResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, work = run
    monkeypatch.setenv("BENCH_KEY", "sk-secret")
    reply = TroubledReply()
    behaviour = Behaviour(dict.fromkeys(("429", "500", "drop", "garbage"), 0.05), reply)
    with serving(behaviour) as url:
        served = with_endpoint(settings, url)
        chats = [each for each in work if each.name in ("tiif", "unigenbench")]
        result = judge_here(served, chats, ("policy",), run_paths(settings))
        assert not result.missing and all(reply.troubles[name] for name in ("malformed", "refused", "cut"))
        for each in chats:
            expected = [each.values for each in judgements_of(settings, each, "policy") if isinstance(each, Answer)]
            found = judgements_of(served, each, "policy")
            assert [row.values for row in found if isinstance(row, Answer)] == expected
            assert {row.attempts for row in found} == {1, 2}
        calls, answers = len(behaviour.bodies), [values_of(served, each) for each in chats]
        judge_here(served, chats, ("policy",), run_paths(settings))
        assert len(behaviour.bodies) == calls
        # Killed while a chunk was written: its replies come from the cache, except for those that were cut.
        for each in chats:
            file = run_paths(settings).benchmark_judgements(each.name, name_judge(served, each).folder, "policy")
            shutil.rmtree(file.with_suffix(".parts"))
        judge_here(served, chats, ("policy",), run_paths(settings))
        assert [values_of(served, each) for each in chats] == answers
        assert len(behaviour.bodies) - calls <= reply.troubles["cut"], "a cut answer is not cached, as a limit may rise"


def values_of(settings: Settings, work: Work) -> list[tuple[str, ...]]:
    """The answers about the policy's images."""
    return [each.values for each in judgements_of(settings, work, "policy") if isinstance(each, Answer)]


def with_endpoint(settings: Settings, url: str) -> Settings:
    """The settings with judges at a server."""
    fast: dict[str, Any] = {"url": url, "key_variable": "BENCH_KEY", "timeout": 5.0, "max_backoff_s": 0.05}
    return replace(
        settings,
        benchmark=replace(settings.benchmark, judge="endpoint"),
        tiif_judge=replace(settings.tiif_judge, **fast),
        unigenbench_judge=replace(settings.unigenbench_judge, **fast),
        dpg_judge=replace(settings.dpg_judge, **fast),
    )


def test_missing_images_are_counted_and_shown_as_a_range(tmp_path: Path) -> None:
    settings, work = rendered_run(tmp_path / "run", ["benchmark.names=[unigenbench]", "benchmark.chunk_images=4"])
    paths = run_paths(settings)
    (paths.benchmark_images("unigenbench", "policy") / "0_0.png").unlink()
    result = judge_here(settings, work, SIDES, paths)
    assert dict(result.missing) == {"no image": 1} and not result.unanswered
    text = write_report(settings, work, SIDES, paths)
    cell = cell_of(settings, "unigenbench", "sub", "Entity Layout - Two-Dimensional Space")["values"]["policy"]["fixed"]
    assert cell["missing"] == 1 and cell["lowest"] < cell["value"] < cell["highest"]
    assert "images without a judgement: 0 of base, 1 of policy" in text and "4.2% of the answers are missing" in str(
        content_of(settings)["paper_cells"]
    )


def test_images_made_elsewhere_are_judged_as_our_own(tmp_path: Path) -> None:
    settings, work = rendered_run(tmp_path / "run", ["benchmark.names=[dpg]", f"benchmark.out={tmp_path / 'out'}"])
    export_images(settings, work, ("policy",), run_paths(settings))
    assert len(list((tmp_path / "out" / "dpg" / "policy").glob("*.png"))) == len(work[0].items), "grids"
    overrides = ["evaluation.short_prompts=6", "evaluation.long_prompts=6", "benchmark.names=[dpg]"]
    other = load(
        "scenes", [f"run_dir={tmp_path / 'new'}", f"benchmark.images={tmp_path / 'out/dpg/policy'}", *overrides]
    )
    other_work = load_work(other)
    import_images(other, other_work, run_paths(other))
    assert sides_to_judge(other) == ("other",)
    for each, sides in ((settings, ("policy",)), (other, ("other",))):
        judge_here(each, work if each is settings else other_work, sides, run_paths(each))
    assert judgements_of(other, other_work[0], "other") == judgements_of(settings, work[0], "policy")
    assert "other" in write_report(other, other_work, ("other",), run_paths(other))
    moved = replace(other, benchmark=replace(other.benchmark, images=str(tmp_path)))
    with pytest.raises(UserError, match=r"choose another benchmark\.images_name"):
        import_images(moved, other_work, run_paths(other))


def test_a_report_without_judgements_says_what_to_run(run: tuple[Settings, list[Work]]) -> None:
    settings, work = run
    other = replace(settings, benchmark=replace(settings.benchmark, judge="endpoint"))
    with pytest.raises(UserError, match=r"gpt-4o has not judged .* run `spatialt2i benchmark judge`"):
        write_report(other, [each for each in work if each.name == "tiif"], SIDES, run_paths(settings))
    nothing = replace(settings, run_dir=str(np.random.default_rng().integers(10**9)))
    with pytest.raises(UserError, match="run `spatialt2i benchmark draw` first"):
        judge_here(nothing, work[:1], SIDES, run_paths(nothing))
