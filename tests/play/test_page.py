"""The page in Chromium: by keyboard, on a phone, with others who wait, and with a server that ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.browser import Browser, wait_for
from tests.support.play_server import RIGHT, WRONG, FakeReward, FakeSampler, serving_play

pytestmark = pytest.mark.browser
REWARDS = {"SpatialScore": FakeReward()}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile"), 1280, 900) as desktop:
        yield desktop


def _open(browser: Browser, address: str) -> None:
    browser.reset()
    browser.open(address)
    wait_for(lambda: browser.text("#about") or browser.text("#problem"), "what is compared")


def _type(browser: Browser, text: str) -> None:
    browser.value("document.getElementById('prompt').select()")
    browser.command("Input.insertText", text=text)


def _cells(browser: Browser) -> list[list[str]]:
    """The rows of the newest result."""
    rows = "[...document.querySelector('#results article').querySelectorAll('tbody tr')]"
    return browser.value(f"{rows}.map((row) => [...row.children].map((cell) => cell.textContent))")


def _results(browser: Browser) -> int:
    return browser.value("document.querySelectorAll('#results article').length")


def test_enter_shows_both_images_with_scores_and_the_verdict_of_each_relation(browser: Browser) -> None:
    sampler = FakeSampler()
    with serving_play(sampler, REWARDS) as address:
        _open(browser, address)
        assert browser.text("#about") == (
            "run demo, policy version 47 against its base, the small FLUX of the scenes world"
        )
        assert browser.value("document.activeElement.id") == "prompt"
        _type(browser, "A red circle left of a blue square.")
        browser.press("Enter")
        wait_for(lambda: _results(browser) == 1, "the images")
        assert _cells(browser) == [
            ["SpatialScore", "−1.50", "+2.00"],
            ["red circle left of blue square", "✗ seen right of", "✓ right"],
            ["all objects there", "✓ right", "✓ right"],
            ["nothing else", "✗ also green triangle", "✓ right"],
        ]
        images = "[...document.querySelectorAll('#results img')]"
        wait_for(lambda: browser.value(f"{images}.every((image) => image.naturalWidth === 64)"), "decoded images")
        assert browser.value(f"{images}[1].alt") == (
            "Tuned image of “a red circle left of a blue square”. 1 of 1 relations right. SpatialScore +2.00."
        )
        assert browser.text("#status").startswith("Done. Base: 0 of 1 relations right.")
        browser.value("document.getElementById('next').click()")
        wait_for(lambda: _results(browser) == 2, "the images of the next seed")
        assert sampler.asked == [(RIGHT.text, 1), (RIGHT.text, 2)]
        assert browser.text("#totals") == (
            "2 tries on this page: everything right in 0 base images and in 2 tuned ones."
        )
        browser.value("document.querySelector('[data-side=base]').click()")
        browser.press("ArrowRight")
        assert browser.text("#zoom-name") == "Tuned"


def test_a_refused_prompt_is_explained_and_kept(browser: Browser) -> None:
    with serving_play(FakeSampler(), REWARDS) as address:
        _open(browser, address)
        _type(browser, "a cat left of a <b>dog</b>")
        browser.press("Enter")
        wait_for(lambda: browser.text("#problem"), "the reason")
        assert "knows shapes (circle, square, triangle)" in browser.text("#problem")
        assert browser.value("document.querySelector('#problem b')") is None
        assert browser.value("document.getElementById('prompt').value") == "a cat left of a <b>dog</b>"
        assert not browser.value("document.getElementById('go').disabled")
        _type(browser, "a red circle " * 30)
        browser.press("Enter")
        wait_for(lambda: "300 characters here, this one has 390" in browser.text("#problem"), "the limit")


def test_a_prompt_waits_can_be_cancelled_and_learns_that_the_server_ended(browser: Browser) -> None:
    sampler = FakeSampler()
    sampler.gate.clear()
    with serving_play(sampler, REWARDS) as address:
        body = {"prompt": RIGHT.text, "seed": 9}
        other = requests.post(f"{address}api/images", json=body, stream=True, timeout=30)
        lines = other.iter_lines()  # the connection ends with it
        assert b"sampling" in next(lines)
        _open(browser, address)
        _type(browser, RIGHT.text)
        browser.press("Enter")
        wait_for(lambda: "1 prompt is served before yours" in browser.text("#progress"), "a place in the line")
        third = requests.post(f"{address}api/images", json=body, timeout=30)
        assert third.status_code == 503 and third.json()["detail"].startswith("busy")
        browser.value("document.getElementById('cancel').click()")
        wait_for(lambda: browser.value("document.getElementById('progress').hidden"), "the end of waiting")
        wait_for(
            lambda: requests.post(f"{address}api/images", json=body, stream=True, timeout=30).status_code == 200,
            "the place of who has left",
        )
        sampler.gate.set()
        assert b'"done"' in list(lines)[-1], "others are served"
    browser.press("Enter")
    wait_for(lambda: "cannot be reached" in browser.text("#problem"), "the message that the server ended")


def test_a_phone_of_360_pixels_shows_both_images_side_by_side(tmp_path: Path) -> None:
    with Browser(tmp_path, 360, 740, phone=True) as phone, serving_play(FakeSampler(), REWARDS) as address:
        _open(phone, address)
        _type(phone, WRONG.text)
        phone.press("Enter")
        wait_for(lambda: phone.text("#problem") or _results(phone) == 1, "the images")
        assert phone.value("document.documentElement.scrollWidth") <= 360
        boxes: list[dict[str, Any]] = phone.value(
            "[...document.querySelectorAll('#results img')].map((image) => image.getBoundingClientRect().toJSON())"
        )
        assert boxes[0]["top"] == boxes[1]["top"] and boxes[0]["right"] < boxes[1]["left"] and boxes[0]["width"] > 120
        small = (
            "[...document.querySelectorAll('button, input, textarea')]"
            ".filter((each) => each.offsetParent && each.offsetHeight < 36).map((each) => each.id)"
        )
        assert phone.value(small) == [], "every control is large enough for a finger"


def test_nothing_but_the_page_is_answered_without_the_token_or_from_other_pages(browser: Browser) -> None:
    with serving_play(FakeSampler(), REWARDS, token="secret/1") as address:
        page = requests.get(address, timeout=30)
        assert page.status_code == 200 and "script-src 'self'" in page.headers["Content-Security-Policy"]
        body = {"prompt": RIGHT.text, "seed": 1}
        assert requests.get(f"{address}api/about", timeout=30).status_code == 401
        assert requests.post(f"{address}api/images", json=body, timeout=30).status_code == 401
        key = {"Authorization": "Bearer secret/1"}
        form = requests.post(f"{address}api/images", data='{"prompt":"a","seed":1}', headers=key, timeout=30)
        assert form.status_code == 422, "what a form of another page can send is refused"
        for wrong in ({"prompt": RIGHT.text, "seed": -1}, {"prompt": "x" * 5000, "seed": 1}, {"seed": 1}):
            assert requests.post(f"{address}api/images", json=wrong, headers=key, timeout=30).status_code == 422
        large = requests.post(f"{address}api/images", data=b"x" * 70_000, headers=key, timeout=30)
        assert large.status_code == 413
        _open(browser, address)
        assert "add # and the token" in browser.text("#problem")
        _open(browser, f"{address}#secret%2F1")
        assert browser.text("#about").startswith("run demo") and "#" not in browser.value("location.href")
