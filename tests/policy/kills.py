"""A scenes run on a cluster of three nodes, whose processes are killed at random moments: run by test_kills.py.

`python -m tests.policy.kills` prints the table of kills and recoveries. It is the operator's side: it starts the
raylets, submits the driver again when it was killed, adds a node for one that was lost, and looks at processes only.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from ray._private.node import Node
from ray.cluster_utils import Cluster

from conf import Settings, dump, load
from tests.tiny_reward import save_tiny_vlm, tiny_spatialscore

TITLES = {
    "rollout actor": "ray::Rollout",
    "reward replica": "ray::ServeReplica:spatialscore",
    "learner rank": "ray::LearnerRank",
    "Serve controller": "ray::ServeController",
    "Serve proxy": "ray::ProxyActor",
}
"""How Ray names the processes of each kind."""
MOMENTS = (
    ("rollout actor", "reward replica"), ("learner rank", "Serve controller"), ("Serve proxy", "rollout actor"),
    ("driver",), ("worker node",), ("reward replica", "Serve controller"), ("rollout actor", "learner rank"),
    ("rollout actor", "worker node"), ("reward replica", "driver"), ("Serve proxy", "reward replica"),
    ("learner rank", "rollout actor"), ("Serve controller", "Serve proxy"),
)  # fmt: skip
"""What dies together; in random order."""
PATIENCE = 300.0  # seconds in which a run must have recovered


@dataclass(frozen=True)
class Kill:
    """One moment's victims, and how the run came back."""

    second: float  # since the run began
    iteration: int  # the newest that was finished
    kinds: tuple[str, ...]
    replaced_after: float  # seconds until every victim's successor ran
    trained_after: float  # seconds until the next iteration was finished


def settings_of(run_dir: Path, model: Path, address: str, port: int) -> Settings:
    """2 prompts x 6 images a step of the shipped FLUX; a random SpatialScore; 2 rollout actors, 2 replicas, HTTP."""
    return load("scenes", [
        f"run_dir={run_dir}", f"ray_address={address}", f"pool.model={model}", "pool.unexamined=true",
        "pool.min_replicas=2", "pool.http=true", "pool.max_replicas=2", f"pool.port={port}", "pool.batch_images=12",
        "pool.cpus=0.2", "policy.iterations=120",
        "policy.minutes=0", "policy.prompts_per_step=2", "policy.group_size=6", "policy.top_k=2", "policy.steps=4",
        "policy.learner_threads=1", "policy.rollout_cpus=0.2", "policy.learner_cpus=0.2",
        "policy.evaluate_every=0",
    ])  # fmt: skip


class Operator:
    """A cluster, and one run on it."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster()
        persistently(lambda: self.cluster.add_node(num_cpus=0, include_dashboard=False))
        self.workers = [persistently(lambda: self.cluster.add_node(num_cpus=1)) for _ in range(2)]
        self.folder = folder
        save_tiny_vlm(folder / "vlm")
        tiny_spatialscore(folder / "vlm").save_pretrained(folder / "model")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.submissions = 0

    def submit(self, name: str) -> None:
        """Starts the driver of a run, or starts it again: what a job's entrypoint does."""
        self.run_dir = self.folder / name
        settings = settings_of(self.run_dir, self.folder / "model", self.cluster.address, self.port)
        dump(settings, self.folder / f"{name}.yaml")
        command = "import sys; from pipelines.cli import main; sys.exit(main(sys.argv[1:]))"
        with (self.folder / f"{name}.log").open("a") as log:
            self.driver = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", command, "policy", "train", str(self.folder / f"{name}.yaml")],
                stdout=log, stderr=log, env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        self.submissions += 1

    def iteration(self) -> int:
        """The newest one that is finished."""
        metrics = self.run_dir / "policy" / "metrics.jsonl"
        lines = metrics.read_text().splitlines() if metrics.exists() else []
        return json.loads(lines[-1])["iteration"] if lines else 0

    def processes(self, kind: str) -> list[psutil.Process]:
        """The processes of one kind on all nodes of this cluster."""
        raylets = [node.all_processes["raylet"][0].process.pid for node in self.cluster.list_all_nodes()]
        return [child for raylet in raylets for child in _children(raylet, TITLES[kind])]

    def kill(self, kind: str) -> None:
        """One of them, with SIGKILL. A node that was lost is replaced by a new one; a driver is submitted again."""
        if kind == "driver":
            self.driver.send_signal(signal.SIGKILL)
            self.driver.wait()
            self.submit(self.run_dir.name)
        elif kind == "worker node":
            node = self.workers.pop(random.randrange(len(self.workers)))
            self.cluster.remove_node(node, allow_graceful=False)
            self.workers.append(persistently(lambda: self.cluster.add_node(num_cpus=1)))
        else:
            while not (victims := self.processes(kind)):  # the kill before may have taken them along
                time.sleep(0.1)
            random.choice(victims).kill()

    def settled(self) -> bool:
        """Whether every kind has its processes again."""
        wanted = {"rollout actor": 2, "reward replica": 2}
        return all(len(self.processes(kind)) >= wanted.get(kind, 1) for kind in TITLES)

    def strike(self, kinds: tuple[str, ...], began: float) -> Kill:
        """Kills, and waits until the run is whole again and has finished another iteration."""
        before, struck = self.iteration(), time.monotonic()
        for kind in kinds:
            self.kill(kind)
        replaced = trained = 0.0
        while not (replaced and trained):
            passed = time.monotonic() - struck
            if passed > PATIENCE or self.driver.poll() is not None:
                raise RuntimeError(f"no recovery from the loss of {kinds} at iteration {before}: {self.log()}")
            replaced = replaced or (passed if self.settled() else 0.0)
            trained = trained or (passed if self.iteration() > before else 0.0)
            time.sleep(0.1)
        return Kill(struck - began, before, kinds, replaced, trained)

    def finish(self) -> bytes:
        """Waits for the end of the run. Returns the adapter's file."""
        if self.driver.wait(timeout=600):
            raise RuntimeError(self.log())
        return (self.run_dir / "policy" / "export" / "pytorch_lora_weights.safetensors").read_bytes()

    def log(self) -> str:
        """The end of what the driver said."""
        return (self.folder / f"{self.run_dir.name}.log").read_text()[-4000:]


def persistently(start: Callable[[], Node]) -> Node:
    """Ray gives a raylet 30 s to start; on a busy machine it may need another go."""
    for _ in range(3):
        with contextlib.suppress(Exception):
            return start()
    return start()


def _children(raylet: int, title: str) -> Iterator[psutil.Process]:
    try:
        for child in psutil.Process(raylet).children():
            if " ".join(child.cmdline()).startswith(title):
                yield child
    except psutil.NoSuchProcess:
        return


def kill_at_random(seed: int) -> tuple[list[Kill], bool, str]:
    """An undisturbed run, then one that is struck. Returns the kills, whether both adapters are equal, the last row."""
    random.seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        operator = Operator(Path(folder))
        try:
            operator.submit("undisturbed")
            wanted = operator.finish()
            print(f"undisturbed after {operator.iteration()} iterations", file=sys.stderr)
            operator.submit("struck")
            began, kills = time.monotonic(), []
            while not (operator.settled() and operator.iteration() >= 1):
                time.sleep(0.1)
            for kinds in random.sample(MOMENTS, len(MOMENTS)):
                time.sleep(random.uniform(0.0, 1.0))
                kills.append(operator.strike(kinds, began))
                print(table(kills).splitlines()[-1], file=sys.stderr, flush=True)
            same = operator.finish() == wanted
            return kills, same, (operator.run_dir / "policy" / "metrics.jsonl").read_text().splitlines()[-1]
        finally:
            if operator.driver.poll() is None:
                operator.driver.kill()
            operator.cluster.shutdown()


def table(kills: list[Kill]) -> str:
    """As Markdown."""
    lines = ["| at | iteration | killed | replaced after | next iteration after |", "|---|---|---|---|---|"]
    lines += [
        f"| {kill.second:.0f} s | {kill.iteration} | {' and '.join(kill.kinds)} | {kill.replaced_after:.1f} s "
        f"| {kill.trained_after:.1f} s |"
        for kill in kills
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    struck, equal, last = kill_at_random(seed=0)
    kinds = [kind for kill in struck for kind in kill.kinds]
    print(table(struck))
    print(f"\n{len(kinds)} kills; the final adapter is {'' if equal else 'NOT '}the undisturbed run's, bit for bit.")
    print(f"The run's last row: {last}")
    print(json.dumps({"kinds": kinds, "same_adapter": equal}))
