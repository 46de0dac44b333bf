"""`python -m tests.support.review_screenshot`: takes the screenshot of docs/review.md. Needs Chromium."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

from PIL import Image

from tests.support.browser import Browser, wait_for
from tests.support.review_server import serving_review
from tests.support.scene_pairs import write_scene_pairs

TARGET = Path(__file__).parents[2] / "docs" / "review.png"
HEIGHT, GAP = 720, 24  # pixels


def _shot(browser: Browser, link: str) -> Image.Image:
    """The page of one annotator, with two answers given."""
    browser.open(link)
    wait_for(lambda: browser.text("#prompt") and browser.value("document.getElementById('image').complete"), "the page")
    browser.press("y", "y")
    content = base64.b64decode(browser.command("Page.captureScreenshot", format="png")["data"])
    image = Image.open(io.BytesIO(content)).convert("RGB")
    return image.resize((round(image.width * HEIGHT / image.height), HEIGHT), Image.Resampling.LANCZOS)


def main() -> None:
    """Writes the file: the page on a desktop beside the page on a phone."""
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        write_scene_pairs(run_dir / "preferences", 20)
        with (
            serving_review(run_dir, "review.gold_fraction=0") as server,
            Browser(Path(folder) / "desktop", 1280, 720) as desktop,
            Browser(Path(folder) / "phone", 390, 844, phone=True) as phone,
        ):
            size = {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False}
            desktop.command("Emulation.setDeviceMetricsOverride", **size)
            shots = [_shot(desktop, server.links["annotator_1"]), _shot(phone, server.links["annotator_2"])]
    page = Image.new("RGB", (sum(shot.width for shot in shots) + GAP, HEIGHT), "white")
    page.paste(shots[0], (0, 0))
    page.paste(shots[1], (shots[0].width + GAP, 0))
    page.quantize(96).save(TARGET, optimize=True)
    print(f"wrote {TARGET}, {TARGET.stat().st_size // 1000} KB")


if __name__ == "__main__":
    main()
