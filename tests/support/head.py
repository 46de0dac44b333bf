"""A real `ray start --head` on free ports with token authentication. It is stopped by its process ids."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.ports import free_port


@dataclass(frozen=True)
class Head:
    """A running cluster."""

    dashboard: str  # http://127.0.0.1:port
    address: str  # 127.0.0.1:port, for ray.init
    metrics: str  # http://127.0.0.1:port/metrics, which Prometheus scrapes
    token: str
    folder: Path  # Ray's temporary folder
    environment: dict[str, str]  # of a process that may use the cluster


@contextmanager
def running_head(**variables: str) -> Iterator[Head]:
    """Starts a head with two CPUs, and waits until its dashboard answers and refuses requests without the token."""
    folder = Path(tempfile.mkdtemp(prefix="st"))  # short, because the paths of Unix sockets are limited
    token = "0123456789abcdef" * 4
    (folder / "token").write_text(token)
    other = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = other | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **variables,
    }
    port, dashboard, metrics = free_port(), free_port(), free_port()
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}/r"]
    command += ["--object-store-memory=300000000", "--node-ip-address=127.0.0.1"]
    command += [f"--port={port}", f"--dashboard-port={dashboard}", f"--metrics-export-port={metrics}"]
    for name in ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "ray-client-server-port"):
        command.append(f"--{name}={free_port()}")
    address = f"http://127.0.0.1:{dashboard}"
    for _ in range(3):  # Ray gives its raylet 30 seconds, which are too few on a busy machine
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        answers = _starts(address, process, folder / "log")
        if answers or process.poll() is None:
            break
    try:
        assert answers, f"ray start did not come up:\n{(folder / 'log').read_text()[-3000:]}"
        yield Head(
            address, f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics", token, folder / "r", environment
        )
    finally:
        started: list[psutil.Process] = []
        with suppress(psutil.NoSuchProcess):  # it did not start
            started += [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for each in started:
            with suppress(psutil.NoSuchProcess):
                each.terminate()
        _, alive = psutil.wait_procs(started, timeout=10)
        for each in alive:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _starts(address: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    """Waits until the node has started and the jobs API answers 401, i.e. requires the token. False if it has ended."""
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/api/jobs/", timeout=2)
            raise AssertionError("the jobs API answered without a token")
        except urllib.error.HTTPError as error:
            if error.code == 401 and "Ray runtime started" in log.read_text():
                return True
        except OSError:
            pass
        time.sleep(0.5)
    return False
