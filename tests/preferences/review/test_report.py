"""The report about a run's pairs."""

from __future__ import annotations

from pathlib import Path

import pytest

from conf import UserError, load
from pipelines.preferences.dataset.report import report
from tests.support.html_page import HtmlPage
from tests.support.scene_pairs import write_scene_pairs


def test_the_report_needs_no_other_file_and_shows_the_counts(run_dir: Path) -> None:
    write_scene_pairs(run_dir / "preferences", 10, "corrupted", first=500)
    page = HtmlPage(report(load("scenes", [f"run_dir={run_dir}"])).read_text())
    assert "script" not in page.tags
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert "50 preference pairs" in page.text
    assert "20.0%" in page.text, "ten of the fifty pairs have no changed relation"
    titles = ("Scenes", "Relations of a prompt", "Words of a prompt", "Perturbations", "Acceptance rates", "Samples")
    assert all(title in page.text for title in titles)
    assert len(page.images) == 2 * 3 * 2, "two images of three pairs of two kinds"


def test_a_run_without_pairs_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `spatialt2i preferences build` first"):
        report(load("scenes", [f"run_dir={tmp_path}"]))
