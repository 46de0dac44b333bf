"""The report about a run's pairs."""

from __future__ import annotations

import csv
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from conf import UserError, load
from pipelines.common.paths import run_paths
from pipelines.preferences.dataset.report import report
from pipelines.preferences.review.annotation import truth, verdict
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.votes import Vote
from tests.support.html_page import HtmlPage
from tests.support.scene_pairs import write_scene_pairs


def test_the_report_needs_no_other_file_and_shows_the_counts(run_dir: Path) -> None:
    write_scene_pairs(run_dir / "preferences", 10, "corrupted", first=500)
    page = HtmlPage(report(load("scenes", [f"run_dir={run_dir}"])).read_text())
    assert "script" not in page.tags
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert "50 preference pairs" in page.text
    assert "20.0%" in page.text, "ten of the fifty pairs have no changed relation"
    titles = ("Scenes", "Relations of a prompt", "Words of a prompt", "Perturbations", "Samples")
    assert all(title in page.text for title in titles)
    assert len(page.images) == 2 * 3 * 2, "two images of three pairs of two kinds"
    for meaning in ("flip: the relation becomes its opposite", "star: all relations", "corrupted: the rejected image"):
        assert meaning in page.text, "words that a reader cannot know are explained"


def test_only_what_annotators_did_counts_as_theirs(run_dir: Path) -> None:
    settings = load("scenes", [f"run_dir={run_dir}", "review.gold_fraction=0"])
    before = HtmlPage(report(settings).read_text()).text
    assert "accepted by the build’s check only 40" in before and "votes of annotators 0" in before
    assert "Accepted by annotators" not in before, "a chart without a decision says nothing"
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        pair = open_queue(settings, database, store).find("pair-00000003")
        known = truth(pair)
        assert known
        for name in ("ann", "ben"):
            vote = Vote(name, pair.pair_id, name, "review", known, verdict(pair.rule, known), "w", 3.0, 1.0)
            store.cast(vote, needs_lease=False)
    after = HtmlPage(report(settings).read_text()).text
    assert "accepted by annotators 1 accepted by the build’s check only 39" in after
    assert "votes of annotators 2" in after and "Accepted by annotators" in after


def test_the_votes_are_a_table_that_runs_no_formula(run_dir: Path) -> None:
    settings = load("scenes", [f"run_dir={run_dir}", "review.gold_fraction=0"])
    paths = run_paths(settings)
    report(settings)
    assert not paths.review_votes.exists(), "there are no votes"
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        pair = open_queue(settings, database, store).find("pair-00000003")
        known = truth(pair)
        assert known
        noted = replace(known, note='=HYPERLINK("http://example.org")')
        vote = Vote("v", pair.pair_id, "ann", "review", noted, verdict(pair.rule, noted), "w", 3.25, 1.0)
        store.cast(vote, needs_lease=False)
    report(settings)
    with paths.review_votes.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * pair.rule.claims and paths.review_votes.stat().st_mode & 0o077 == 0
    assert {row["annotator"] for row in rows} == {"ann"} and all(row["note"].startswith("'=") for row in rows)
    answered = [(row["image"], row["claim"]) for row in rows if row["answer"] == "no"]
    changed = [" ".join(pair.claims[claim]) for claim in pair.rule.changed]
    assert answered == [("loser", claim) for claim in changed]
    assert [row["kind"] for row in rows if row["image"] == "loser"].count("changed claims") == len(changed)
    assert rows[0]["seconds"] == "3.2" and rows[0]["time"] == "1970-01-01T00:00:01+00:00"


def test_a_chart_explains_its_tick_only_if_it_has_one(run_dir: Path) -> None:
    html = report(load("scenes", [f"run_dir={run_dir}"])).read_text()
    figures = [figure for figure in html.split("<figure") if "</h3>" in figure]
    assert any("The tick" in figure for figure in figures) and any("The tick" not in figure for figure in figures)
    for figure in figures:
        assert ("The tick" in figure) == ('class="reference"' in figure)


def test_a_run_without_pairs_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `spatialt2i preferences build` first"):
        report(load("scenes", [f"run_dir={tmp_path}"]))
