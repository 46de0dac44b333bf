"""`python -m tests.support.screenshots SPATIALSCORE`: takes the screenshots of docs/cluster.md during a run.

Needs Chromium and Prometheus. SPATIALSCORE is a folder that `make demo` wrote: runs/demo/reward/model.
"""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import yaml
from PIL import Image
from rich.console import Console

from cluster.alerts import rules
from conf import load
from pipelines.common.paths import RunPaths
from pipelines.operations.status import render_status
from pipelines.policy.metrics import read_rows
from tests.support.browser import Browser, wait_for
from tests.support.head import Head, running_head
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@contextmanager
def running_prometheus(head: Head, folder: Path) -> Generator[str]:
    """Runs a Prometheus that scrapes the head every two seconds. Yields its address."""
    address = f"127.0.0.1:{free_port()}"
    target = head.metrics.removeprefix("http://").removesuffix("/metrics")
    (folder / "alerts.yaml").write_text(yaml.safe_dump(rules(load("scenes"))))
    config = {
        "global": {"scrape_interval": "2s", "evaluation_interval": "2s"},
        "rule_files": ["alerts.yaml"],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = [
        "prometheus",
        f"--config.file={folder}/prometheus.yaml",
        f"--storage.tsdb.path={folder}/series",
        f"--web.listen-address={address}",
    ]
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(20)


def save(browser: Browser, name: str, top: int = 0, bottom: int = 660) -> None:
    """Saves rows `top` to `bottom` of the page as docs/<name>.png, with 64 colours to keep it under 200 KB."""
    shot = base64.b64decode(browser.command("Page.captureScreenshot", format="png")["data"])
    page = Image.open(io.BytesIO(shot)).convert("RGB")
    image = page.crop((0, top, page.width, min(bottom, page.height))).quantize(64)
    image.save(DOCS / f"{name}.png", optimize=True)
    print(f"wrote {DOCS / name}.png, {(DOCS / name).with_suffix('.png').stat().st_size // 1000} KB", flush=True)


def status_page(run_dir: Path, dashboard: str) -> str:
    """Returns the output of `spatialt2i status` as the address of an HTML page."""
    settings = load("scenes", [f"run_dir={run_dir}", f"status.address={dashboard}", "policy.iterations=40"])
    console = Console(record=True, width=150, file=io.StringIO(), force_terminal=True)
    console.print(render_status(settings))
    return "data:text/html;base64," + base64.b64encode(console.export_html().encode()).decode()


def main(model: str) -> None:
    """Trains a policy and takes the screenshots."""
    folder = Path(tempfile.mkdtemp(prefix="screenshots"))
    run_dir = folder / "run"
    with running_head() as head, running_prometheus(head, folder) as prometheus:
        words = [
            "submit",
            "policy",
            "train",
            f"run_dir={run_dir}",
            f"serving.model={Path(model).absolute()}",
            "serving.skip_sanity_checks=true",
            "policy.iterations=40",
            "policy.minutes=0",
            "policy.prompts_per_iteration=4",
            "policy.evaluation.every=0",
            f"submit.address={head.dashboard}",
            "submit.stop_on_interrupt=true",
        ]
        job = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *words], env=head.environment, cwd=ROOT)
        metrics = RunPaths(run_dir).metrics
        wait_for(lambda: len(read_rows(metrics)) >= 12 or job.poll(), "twelve policy versions", 400)
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
