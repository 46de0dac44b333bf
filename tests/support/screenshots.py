"""`python -m tests.support.screenshots SPATIALSCORE`: takes pictures for docs/cluster.md during a run on a real head.

Needs Chromium and Prometheus. SPATIALSCORE is a folder as `make demo` leaves it: runs/demo/reward/model.
"""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from PIL import Image
from rich.console import Console

from cluster.alerts import rules
from conf import load
from pipelines.operations.status import render_status
from pipelines.policy.metrics import read_rows
from tests.support.browser import Browser, wait_for
from tests.support.head import Head, free_port, running_head

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@contextmanager
def watched(head: Head, folder: Path) -> Iterator[str]:
    """A Prometheus that asks the head every two seconds. Gives its address."""
    address = f"127.0.0.1:{free_port()}"
    target = head.metrics.removeprefix("http://").removesuffix("/metrics")
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules(load("scenes"))))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump({
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}],
    }))  # fmt: skip
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/series",
             f"--web.listen-address={address}"], stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def save(browser: Browser, name: str, top: int = 0, bottom: int = 660) -> None:
    """Rows `top` to `bottom` of the page as docs/<name>.png with 64 colours, which keeps it under 200 KB."""
    shot = base64.b64decode(browser.command("Page.captureScreenshot", format="png")["data"])
    page = Image.open(io.BytesIO(shot)).convert("RGB")
    picture = page.crop((0, top, page.width, min(bottom, page.height))).quantize(64)
    picture.save(DOCS / f"{name}.png", optimize=True)
    print(f"wrote {DOCS / name}.png, {(DOCS / name).with_suffix('.png').stat().st_size // 1000} KB", flush=True)


def status_page(run_dir: Path, dashboard: str) -> str:
    """`spatialt2i status` as a page in which a browser shows it."""
    settings = load("scenes", [f"run_dir={run_dir}", f"status.address={dashboard}", "policy.iterations=40"])
    console = Console(record=True, width=150, file=io.StringIO(), force_terminal=True)
    console.print(render_status(settings))
    return "data:text/html;base64," + base64.b64encode(console.export_html().encode()).decode()


def main(model: str) -> None:
    """Runs, looks and writes."""
    folder = Path(tempfile.mkdtemp(prefix="pictures"))
    run_dir = folder / "run"
    with running_head() as head, watched(head, folder) as prometheus:
        words = ["submit", "policy", "train", f"run_dir={run_dir}", f"serving.model={Path(model).absolute()}",
                 "serving.skip_sanity_checks=true", "policy.iterations=40", "policy.minutes=0", "policy.prompts_per_iteration=4",
                 "policy.evaluation.every=0", f"submit.address={head.dashboard}",
                 "submit.stop_on_interrupt=true"]  # fmt: skip
        job = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *words], env=head.environment, cwd=ROOT)
        wait_for(
            lambda: len(read_rows(run_dir / "policy" / "metrics.jsonl")) >= 12 or job.poll(), "twelve versions", 400
        )
        with Browser(folder / "profile", 1500, 800) as browser:
            browser.command("Network.setCookie", name="ray-authentication-token", value=head.token, url=head.dashboard)
            browser.open(f"{head.dashboard}/#/actors")
            wait_for(lambda: "rollout 0" in browser.text("body"), "the actors")
            time.sleep(2)
            save(browser, "ray_dashboard")
            browser.open(f"{prometheus}/classic/alerts")
            time.sleep(2)
            save(browser, "alerts", top=236, bottom=585)
            browser.open(status_page(run_dir, head.dashboard))
            save(browser, "status", top=36, bottom=230)
        job.send_signal(2)
        job.wait(60)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main(sys.argv[1])
