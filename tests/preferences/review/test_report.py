"""The plots of a run's pairs."""

from conf import load
from pipelines.preferences.dataset.report import report
from tests.preferences.review.conftest import write_pairs
from tests.support.html_page import HtmlPage


def test_the_report_stands_alone_and_tells_what_was_counted(run_dir):
    write_pairs(run_dir / "preferences", 10, "exploit", first=500)
    html = report(load("scenes", [f"run_dir={run_dir}"])).read_text()
    page = HtmlPage(html)
    assert "50 preference pairs" in page.text and "script" not in page.tags
    assert all(reference.startswith("data:image/") for reference in page.references)
    titles = ("Scenes", "Relations of a prompt", "Words of a prompt", "Perturbations", "Accept rates", "Samples")
    assert all(title in page.text for title in titles)
    assert page.text.count("20.0%") >= 1 and page.tags.count("svg") == 7
    assert len(page.images) == 2 * 3 * 2, "three pairs of each kind"
