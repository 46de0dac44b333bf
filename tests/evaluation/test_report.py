"""The page: what it says, that it stands alone, that it is honest, and that it fits a phone."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from actors.files import write_file
from conf import Settings, load
from pipelines.common.images import encode_png
from pipelines.evaluation.before_after import (
    COLUMNS,
    FOOTER,
    GAP,
    HEADER,
    NAMES,
    RIGHT,
    TILE,
    WRONG,
    before_after_figure,
    choose,
)
from pipelines.evaluation.cases import SIDES, Result, draw_cases
from pipelines.evaluation.gallery import build_gallery, outcomes_of
from pipelines.evaluation.images import inspect_image
from pipelines.evaluation.report import render_report
from pipelines.evaluation.tables import tabulate
from pipelines.preferences.dataset.schema import to_table
from pipelines.preferences.dataset.shards import Folder, plan_shards
from pipelines.preferences.roles.base import RowSpec
from pipelines.preferences.roles.scenes import SceneGenerator, ScenePerturber, SceneReviewer, SceneWriter
from pipelines.scenes import grammar, render

VOID = {"meta", "img", "br", "link", "line", "circle", "path", "polyline"}


class Page(HTMLParser):
    """Collects a page's text, images and references, and checks that its tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.classes: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.classes += (given.get("class") or "").split()
        self.references += [value for key, value in attrs if key in ("src", "href", "srcset") and value]
        if tag == "img":
            self.images.append(given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{tag} closed out of turn"

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def _evaluated(run_dir: Path) -> tuple[Settings, list[Result]]:
    """An evaluation whose pictures come from the renderer: the base is often wrong, the policy seldom."""
    settings = load("scenes", [f"run_dir={run_dir}", "evaluation.short_prompts=20", "evaluation.long_prompts=20"])
    rng = np.random.default_rng(0)
    results = []
    for case in draw_cases(settings):
        sights = []
        for side, wrong in zip(SIDES, (0.6, 0.15), strict=True):
            scene = grammar.parse(case.prompt.text)
            if rng.random() < wrong:
                scene, _ = grammar.perturb(scene, 1, rng)
            image = render.render(render.lay_out(scene, rng), rng)
            write_file(str(run_dir / "evaluation" / side / f"{case.name}.png"), encode_png(image))
            sights.append(inspect_image(image, case.prompt, float(rng.normal())))
        results.append(Result(case, *sights))
    return settings, results


def _leave_logs(run_dir: Path) -> None:
    """What the stages before leave behind."""
    lines = [{"training_seconds": 3.0 * i, "reward_mean": i / 10, "iteration": i} for i in range(1, 11)]
    write_file(str(run_dir / "policy/metrics.jsonl"), "\n".join(map(json.dumps, lines)).encode())
    held_out = [
        {
            "training_seconds": 6.0 * i,
            "relation_accuracy_short": 0.5 + i / 20, "relation_accuracy_long": 0.4 + i / 20,
            "object_accuracy_long": 0.9, "reward_mean": None if i == 0 else i / 10,
        }
        for i in range(6)
    ]  # fmt: skip
    write_file(str(run_dir / "policy/evaluation.jsonl"), "\n".join(map(json.dumps, held_out)).encode())
    accuracy = {"pairs": 600, "right": 573, "accuracy": 0.955, "low": 0.935, "high": 0.969}
    report = {"models": [{"accuracies": {"overall": accuracy, "generated": None}}]}
    write_file(str(run_dir / "reward/evaluation.json"), json.dumps(report).encode())
    seconds = {"Preference pairs (Ray Data)": 71.4}
    write_file(str(run_dir / "timings.json"), json.dumps({"machine": "m", "seconds": seconds}).encode())
    drafts = ScenePerturber().perturb(SceneWriter().write([RowSpec(i, "perturbed", i) for i in range(6)]))
    pairs = SceneGenerator().generate(drafts)
    folder = Folder(run_dir / "preferences", "x")
    table = to_table(pairs, SceneReviewer().review(pairs), ["train"] * 6, "x")
    folder.write(plan_shards(load().preferences)[0], table, rejected=0, dropped=[])
    folder.close({})


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, Settings, list[Result]]:
    run_dir = tmp_path_factory.mktemp("run")
    settings, results = _evaluated(run_dir)
    _leave_logs(run_dir)
    return run_dir, settings, results


@pytest.fixture(scope="module")
def html(run) -> str:
    run_dir, settings, results = run
    return render_report(run_dir, settings, results, tabulate(results), 12.0)


def test_the_page_needs_nothing_else(html):
    page = Page(html)
    assert "script" not in page.tags and "link" not in page.tags
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert not re.search(r"url\(|@import|https?://", html.split("<pre>")[0])


def test_every_picture_says_what_it_shows(html):
    page = Page(html)
    assert len(page.images) > 20
    assert all(image["alt"] and len(image["alt"]) > 15 for image in page.images)
    assert len(re.findall(r"relations right", " ".join(str(image["alt"]) for image in page.images))) >= 20
    assert 'lang="en"' in html and "viewport" in html and "prefers-color-scheme: dark" in html


def test_the_page_tells_what_was_measured(run, html):
    page, tables = Page(html), tabulate(run[2])
    row = tables.find("relations", "all")
    assert row is not None
    for estimate in (row.base, row.policy):
        assert f"{100 * estimate.value:.1f}%" in page.text
        assert f"{100 * estimate.low:.1f}% – {100 * estimate.high:.1f}%" in page.text
    assert f"{100 * row.difference.value:+.1f}" in page.text
    for told in ("Relations right, by word", "Objects present", "Pictures all right", "short prompts", "long prompts",
                 "95.5%", "Preference pairs (Ray Data)", "1 min 11 s", "CPUs", "prompts_per_iteration"):  # fmt: skip
        assert told in page.text, told
    assert page.tags.count("polyline") == 5, "three curves of held-out accuracy, two of reward"


def test_every_relation_of_a_shown_prompt_is_marked(run, html):
    page = Page(html)
    walls = build_gallery(run[2], run[0] / "evaluation")
    shown = [picture for wall in walls for exhibit in wall.comparisons for picture in exhibit.tiles]
    checks = [check for picture in shown for check in picture.checks]
    assert page.classes.count("yes") == sum(check.right for check in checks) > 0
    assert page.classes.count("no") == sum(not check.right for check in checks) > 0
    assert all(bool(check.instead) != check.right for check in checks), "a wrong relation says what is seen instead"
    assert page.text.count("wrong: ") == page.classes.count("no"), "marks are not told by colour alone"


def test_the_gallery_counts_all_cases_and_hides_no_failure(run):
    folder, results = run[0] / "evaluation", run[2]
    walls = {wall.title: wall for wall in build_gallery(results, folder)}
    assert sum(wall.count for wall in walls.values()) == len(results)
    turned = [replace(result, base=result.policy, policy=result.base) for result in results]
    back = {wall.title: wall for wall in build_gallery(turned, folder)}
    assert back["Made worse"].count == walls["Improved"].count and back["Made worse"].comparisons
    for wall in walls.values():
        prompts = [exhibit.prompt for exhibit in wall.comparisons]
        assert len(set(prompts)) == len(prompts) >= min(3, wall.count, len(prompts) or 1)


def test_the_strip_shows_each_fate_by_its_share_and_frames_what_is_right(run):
    folder, results = run[0] / "evaluation", run[2]
    chosen = choose(results)
    assert len(chosen) == COLUMNS
    for fate in outcomes_of(results):
        shown = sum(result in fate.results for result in chosen)
        assert abs(shown - COLUMNS * len(fate.results) / len(results)) < 1, fate.title
    strip = np.asarray(before_after_figure(results, folder))
    for column, result in enumerate(chosen):
        left = NAMES + column * (TILE + GAP)
        for row, sight in enumerate((result.base, result.policy)):
            top = HEADER + row * (TILE + FOOTER)
            assert tuple(strip[top, left]) == (RIGHT if sight.perfect else WRONG)
            assert strip[top + 10 : top + TILE - 10, left + 10 : left + TILE - 10].std() > 1, "a picture in the frame"


def test_a_worse_policy_gets_no_praise(run):
    run_dir, settings, results = run
    turned = [replace(result, base=result.policy, policy=result.base) for result in results]
    html = render_report(run_dir, settings, turned, tabulate(turned), 1.0)
    assert "The model learned" not in html and "Before and after training" in html


def test_a_run_without_logs_still_has_a_page(tmp_path):
    settings, results = _evaluated(tmp_path)
    page = Page(render_report(tmp_path, settings, results, tabulate(results), 1.0))
    assert "Relations right" in page.text and "polyline" not in page.tags and "Preference pairs" not in page.text


@pytest.mark.browser
@pytest.mark.parametrize("width", [500, 1280])
def test_the_page_fits_its_window(html, tmp_path, width):
    browser = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if not browser:
        pytest.skip("there is no Chromium on the path")
    page = tmp_path / "page.html"
    probe = "<script>document.title = document.documentElement.scrollWidth + '/' + window.innerWidth</script>"
    page.write_text(html.replace("</body>", f"{probe}</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    done = subprocess.run(
        [browser, *flags, f"--window-size={width},900", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    content, window = map(int, re.search(r"<title>(\d+)/(\d+)</title>", done.stdout).groups())
    assert content <= window, "the page must not scroll sideways"
