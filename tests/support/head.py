"""A real `ray start --head` on free ports with token authentication, ended by its own process ids."""

from __future__ import annotations

import os
import shutil
import socket
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


@dataclass(frozen=True)
class Head:
    """A running cluster."""

    dashboard: str  # http://127.0.0.1:port
    address: str  # 127.0.0.1:port, for ray.init
    metrics: str  # http://127.0.0.1:port/metrics, which Prometheus asks
    token: str
    folder: Path  # Ray's temporary folder
    environment: dict[str, str]  # of a process that may use it


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_head(**variables: str) -> Iterator[Head]:
    """Starts a head with two CPUs and waits until its dashboard answers, refusing those without the token."""
    folder = Path(tempfile.mkdtemp(prefix="st"))  # short: sockets lie under it
    token = "0123456789abcdef" * 4
    (folder / "token").write_text(token)
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment = kept | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        **variables,
    }
    port, dashboard, metrics = free_port(), free_port(), free_port()
    ports = [f"--port={port}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={free_port()}",
             f"--dashboard-agent-grpc-port={free_port()}", f"--metrics-export-port={metrics}",
             f"--ray-client-server-port={free_port()}"]  # fmt: skip
    command = ["ray", "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}/r", *ports,
               "--object-store-memory=300000000", "--node-ip-address=127.0.0.1"]  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        address = f"http://127.0.0.1:{dashboard}"
        _wait_for_refusal(address, process, folder / "log")
        yield Head(
            address, f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics}/metrics", token, folder / "r", environment
        )
    finally:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.terminate()
        _, alive = psutil.wait_procs(family, timeout=10)
        for member in alive:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for_refusal(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the jobs API answers 401: it is up, and asks for the token."""
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/api/jobs/", timeout=2)
            raise AssertionError("the jobs API answered without a token")
        except urllib.error.HTTPError as error:
            if error.code == 401:
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"ray start did not come up:\n{log.read_text()[-3000:]}")
