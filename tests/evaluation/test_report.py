"""The report: its content, its independence of other files, and its layout on a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.evaluation.gallery import build_gallery, outcomes_of
from pipelines.evaluation.report import render_report
from pipelines.evaluation.reward_terms import averaged
from pipelines.evaluation.tables import tabulate
from pipelines.policy.lineage import Change, record_changes
from tests.support.evaluated_run import EvaluatedRun, blurred_policy
from tests.support.html_page import HtmlPage


@pytest.fixture(scope="module")
def html(run: EvaluatedRun) -> str:
    return render_report(run.paths, run.settings, run.results, tabulate(run.results), 12.0)


def test_the_page_has_no_external_reference(html: str) -> None:
    page = HtmlPage(html)
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert page.references
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert not re.search(r"url\(|@import|https?://", html.split("<pre>", maxsplit=1)[0])


def test_every_image_has_a_description(html: str) -> None:
    page = HtmlPage(html)
    descriptions = [str(image["alt"] or "") for image in page.images]
    assert len(descriptions) > 20
    assert all(len(description) > 15 for description in descriptions)
    assert sum("relations correct" in description for description in descriptions) >= 20
    assert 'lang="en"' in html
    assert "viewport" in html
    assert "prefers-color-scheme: dark" in html


def test_the_page_shows_every_measure_with_its_interval(run: EvaluatedRun, html: str) -> None:
    page, tables = HtmlPage(html), tabulate(run.results)
    row = tables.find("relations", "all")
    assert row is not None
    for estimate in (row.base, row.policy):
        assert f"{100 * estimate.value:.1f}%" in page.text
        assert f"{100 * estimate.low:.1f}% – {100 * estimate.high:.1f}%" in page.text
    assert f"{100 * row.difference.value:+.1f}" in page.text
    for text in (
        "Relations correct, by relation",
        "Objects present",
        "Images fully correct",
        "Images with an object nobody asked for",
        "short prompts",
        "long prompts",
        "95.5%",
        "Preference pairs (Ray Data)",
        "1 min 11 s",
        "CPUs",
        "prompts_per_iteration",
    ):
        assert text in page.text, text
    assert page.tags.count("polyline") == 6, "three curves of held-out accuracy, two of the reward, one watched measure"


def test_every_relation_of_a_shown_prompt_is_marked(run: EvaluatedRun, html: str) -> None:
    page = HtmlPage(html)
    tiles = [
        tile
        for panel in build_gallery(run.results, run.paths)
        for comparison in panel.comparisons
        for tile in comparison.tiles
    ]
    checks = [check for tile in tiles for check in tile.checks]
    assert page.classes.count("yes") == sum(check.right for check in checks) > 0
    assert page.classes.count("no") == sum(not check.right for check in checks) > 0
    assert all(bool(check.instead) != check.right for check in checks), "a wrong relation says what is seen instead"
    assert page.text.count("wrong: ") == page.classes.count("no"), "colour is not the only mark"


def test_an_object_that_nobody_asked_for_is_named(run: EvaluatedRun, html: str) -> None:
    assert "also shows" not in html, "the renderer draws no other objects"
    results = [replace(each, policy=replace(each.policy, unrequested=("red square",))) for each in run.results]
    tables = tabulate(results)
    page = HtmlPage(render_report(run.paths, run.settings, results, tables, 1.0, version=60))
    shown = sum(len(panel.comparisons) for panel in build_gallery(results, run.paths))
    assert page.text.count("also shows: red square") == shown
    row = tables.find("unrequested", "all")
    assert row is not None
    assert (row.base.value, row.policy.value) == (0.0, 1.0)
    perfect = tables.find("perfect", "all")
    assert perfect is not None
    assert perfect.policy.value == 0.0 < perfect.base.value, "an image with another object is not fully correct"
    assert not outcomes_of(results)[1].results, "none stayed fully correct"
    assert sum(len(each.results) for each in outcomes_of(results)) == len(results), "every case has one outcome"
    assert "policy version 60" in page.text
    assert "policy version" not in html.split("<pre>", maxsplit=1)[0]


def test_the_page_says_what_fell_while_the_trained_reward_rose(run: EvaluatedRun) -> None:
    changes = blurred_policy(run, reward=1.0)
    page = HtmlPage(render_report(run.paths, run.settings, run.results, tabulate(run.results), 1.0, changes=changes))
    assert "What else changed" in page.text and changes.verdict in page.text
    assert "fell by more than 0.5 std" in page.text


def test_the_page_shows_how_the_terms_of_the_training_reward_go_together(html: str) -> None:
    """Of 20 iterations with the means 1 to 20."""
    (row,) = re.findall(r"<tr><th scope=\"row\">spatialscore</th>.*?</tr>", html, flags=re.DOTALL)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells == ["1", "5.500", "15.500", "0.500", "0.25", "1.00", "–"]
    assert [averaged([{}] * rows) for rows in (1, 2, 5, 40)] == [1, 1, 2, 10], "no iteration is in both means"


def test_a_worse_policy_gets_a_neutral_title(run: EvaluatedRun) -> None:
    results = run.exchanged()
    html = render_report(run.paths, run.settings, results, tabulate(results), 1.0)
    assert "The model learned" not in html
    assert "Before and after training" in html


def test_a_better_policy_gets_a_positive_title(html: str) -> None:
    assert "The model learned" in html


def test_a_run_without_logs_has_a_page_without_curves(tmp_path: Path) -> None:
    run = EvaluatedRun(tmp_path)
    page = HtmlPage(render_report(run.paths, run.settings, run.results, tabulate(run.results), 1.0))
    assert "Relations correct" in page.text
    assert "polyline" not in page.tags
    assert "Preference pairs" not in page.text and "Lineage" not in page.text


def test_the_page_shows_what_the_version_depends_on(tmp_path: Path) -> None:
    run = EvaluatedRun(tmp_path)
    for version, name in ((20, "rewards.rules"), (60, "policy.optimizer.lr")):
        record_changes(run.paths.lineage, version, [Change(name, 0.0, 1.0)])
    page = HtmlPage(render_report(run.paths, run.settings, run.results, tabulate(run.results), 1.0, version=60))
    assert "): rewards.rules 0 → 1" in page.text and "lr 0 → 1" not in page.text


@pytest.mark.browser
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_fits_its_window(html: str, tmp_path: Path, width: int) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("there is no Chromium on the path")
    page = tmp_path / "page.html"
    probe = "<script>document.title = document.documentElement.scrollWidth + '/' + window.innerWidth</script>"
    page.write_text(html.replace("</body>", f"{probe}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command = [browser, *flags, f"--window-size={width},900", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    title = re.search(r"<title>(\d+)/(\d+)</title>", done.stdout)
    assert title
    assert int(title[1]) <= int(title[2]), "the page must not scroll sideways"
