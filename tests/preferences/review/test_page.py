"""The review page in Chromium, operated by keyboard."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.common.paths import RunPaths
from tests.support.browser import Browser, wait_for
from tests.support.review_server import saved_votes, serving_review
from tests.support.scene_pairs import write_long_pairs

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browsers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Browser]]:
    """A desktop and a phone, of two annotators."""
    folder = tmp_path_factory.mktemp("profiles")
    with Browser(folder / "desktop") as desktop, Browser(folder / "phone", 390, 844, phone=True) as phone:
        yield desktop, phone


@pytest.fixture
def desktop(browsers: tuple[Browser, Browser]) -> Browser:
    return browsers[0].reset()


@pytest.fixture
def phone(browsers: tuple[Browser, Browser]) -> Browser:
    return browsers[1].reset()


def _log_in(browser: Browser, link: str) -> None:
    browser.open(link)
    wait_for(lambda: browser.text("#prompt") or browser.text("#notice-title"), "the first pair")


def _saved(browser: Browser, count: int) -> None:
    wait_for(lambda: browser.text("#bar-text").startswith(f"{count} done"), f"{count} saved pairs")


def _pressed(browser: Browser) -> list[str]:
    """The answers on the screen, "" if a claim has none."""
    row = "[...document.querySelectorAll('#claims li')]"
    return browser.value(f"{row}.map((li) => li.querySelector('[aria-pressed=true]')?.dataset.answer ?? '')")


def _answer_yes(*browsers: Browser) -> None:
    """Answers yes to both images and saves. A key answers what is on the screen, so a phone needs several."""
    for browser in browsers:
        for _ in range(2):
            while not browser.value("document.getElementById('rest').disabled"):
                browser.press("a")
            browser.press("Enter")


def test_two_annotators_review_at_once_and_continue_after_the_server_was_killed(
    run_dir: Path, desktop: Browser, phone: Browser
) -> None:
    settings = ("review.gold_fraction=0",)
    ann, ben = desktop, phone
    with serving_review(run_dir, *settings) as server:
        port = server.address.rpartition(":")[2]
        _log_in(ann, server.links["annotator_1"])
        _log_in(ben, server.links["annotator_2"])
        assert "#" not in ann.value("location.href"), "the token is removed from the address"
        for done in range(1, 4):
            _answer_yes(ann, ben)
            for browser in (ann, ben):
                _saved(browser, done)
        votes = saved_votes(run_dir)
        assert len(set(votes)) == len(votes) == 6
        ann.press("y", "n")
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait()
        prompt, kept = ann.text("#prompt"), _pressed(ann)
        assert kept[:2] == ["yes", "no"]
        _answer_yes(ann)
        wait_for(lambda: "cannot be reached" in ann.text("#message"), "the message that the server is away")
        assert ann.text("#prompt") == prompt, "the page must not move to the next pair"
    with serving_review(run_dir, *settings, f"review.port={port}"):
        _saved(ann, 4)
        _answer_yes(ben)
        _saved(ben, 4)
        votes = saved_votes(run_dir)
        assert len(set(votes)) == len(votes) == 8


def test_every_key_does_what_the_help_says(run_dir: Path, desktop: Browser) -> None:
    with serving_review(run_dir, "review.gold_fraction=0") as server:
        page = desktop
        _log_in(page, server.links["annotator_1"])
        claims = len(_pressed(page))
        assert claims >= 2
        page.press("y", "u")
        assert _pressed(page)[:2] == ["yes", "unsure"]
        page.press("ArrowUp", "ArrowUp", "2")
        assert _pressed(page)[0] == "no"
        page.press("z")
        assert _pressed(page)[0] == "yes", "undo withdraws one answer"
        page.press("Enter" if claims > 2 else "ArrowDown")
        assert page.text("#question").startswith("Does the first"), "the page stays until every claim has an answer"
        page.press("a", "Enter")
        assert page.text("#question").startswith("Does the second")
        page.press("ArrowLeft")
        assert page.text("#question").startswith("Does the first") and _pressed(page)[:2] == ["yes", "unsure"]
        page.press(" ")
        assert page.value("document.getElementById('zoom').open")
        deadline = time.monotonic() + 20
        while not (width := page.value("document.getElementById('zoom-image').width")):
            assert time.monotonic() < deadline, "the image was not loaded"
        page.press("+")
        assert page.value("document.getElementById('zoom-image').width") == 2 * width
        page.press(" ", "?")
        assert page.value("document.getElementById('help').open")
        page.press("?", "ArrowRight", "n")
        page.value("location.reload()")
        wait_for(
            lambda: page.value("document.readyState") == "complete" and page.text("#prompt"),
            "the page after its reload",
        )
        assert page.text("#question").startswith("Does the second") and _pressed(page)[0] == "no", (
            "a draft survives a reload"
        )
        page.press("a", "Enter")
        _saved(page, 1)
        page.press("Backspace")
        _saved(page, 0)
        assert _pressed(page)[0] == "no", "the undone pair has its answers"


def test_the_pages_fit_a_desktop_and_a_phone_and_label_their_controls(
    run_dir: Path, desktop: Browser, phone: Browser
) -> None:
    fits = "document.documentElement.scrollWidth <= innerWidth"
    buttons = "[...document.querySelectorAll('{}')].filter((b) => {}).length"
    with serving_review(run_dir) as server:
        for page in (desktop, phone):
            _log_in(page, server.links["adjudicator"])
            assert "Nothing to do yet" in page.text("#notice-title")
            page.open(f"{server.address}/overview")
            assert page.value(fits) and "Nobody has voted" in page.text("main")
            page.reset()
            _log_in(page, server.links["annotator_1"])
            assert page.value(fits) and page.text("#prompt")
            assert page.value(buttons.format("button", "!(b.textContent.trim() || b.ariaLabel)")) == 0
            low = page.value(buttons.format(".choice button, .actions button", "b.offsetHeight < 40"))
            assert low == 0, "buttons must be large enough for a finger"


def test_many_claims_fit_beside_the_image_with_their_words_marked_and_unseen_ones_are_not_answered(
    tmp_path: Path, desktop: Browser
) -> None:
    write_long_pairs(tmp_path / "preferences", 2)
    rows = "[...document.querySelectorAll('.claims li')]"
    hidden = f"{rows}.filter((r) => r.getBoundingClientRect().bottom > document.querySelector('.actions')"
    hidden += ".getBoundingClientRect().top).length"
    with serving_review(tmp_path, "review.gold_fraction=0") as server:
        page = desktop
        try:
            _resize(page, 1280, 720)
            _log_in(page, server.links["annotator_1"])
            assert page.value(f"{rows}.length") == 14 + 12 and page.value(hidden) == 0
            page.press(*["ArrowDown"] * 14)
            marked = page.value("[...document.querySelectorAll('#prompt mark')].map((m) => m.textContent)")
            assert marked == ["copper kettle", "to the left of", "wooden board", "wooden board"]
            _resize(page, 1280, 400)
            page.value("location.reload()")
            wait_for(lambda: page.value("document.readyState") == "complete" and page.text("#prompt"), "the page")
            page.press("a")
            assert 0 < _pressed(page).count("yes") < 26 and "not on the screen yet" in page.text("#message")
            page.press("c")
            page.value("document.getElementById('note-text').value = 'two suns'")
            page.value("document.querySelector('#note [value=bad-prompt]').click()")
            _saved(page, 1)
        finally:
            page.command("Emulation.clearDeviceMetricsOverride")
    with closing(sqlite3.connect(RunPaths(tmp_path).review_database)) as database:
        assert database.execute("SELECT bad_prompt, note FROM votes").fetchall() == [(1, "two suns")]


def _resize(page: Browser, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    page.command("Emulation.setDeviceMetricsOverride", **size)
