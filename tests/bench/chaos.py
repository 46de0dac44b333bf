"""Short runs of stage 3 under random kills of every role, one after the other, until enough processes were killed.

    python -m tests.bench.chaos FOLDER [--kills 200] [--minutes 0] [--iterations 16]

The runs are sampled by separate rollout actors and by colocated workers, in turn. Processes of random roles are killed
at random moments, some of them while the run still recovers; the head is lost with the driver and the cluster's state,
as a head pod is. This program replaces nodes and submits a killed driver again, as an operator does. At the end the
last checkpoint (adapter, moving average, optimizer) and the exported LoRA must be those of a run that was not
disturbed, bit for bit.

FOLDER/chaos.jsonl has a row for every run. A campaign that was stopped continues from it. The folder of a run that went
wrong is kept, with the log of its driver.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Literal

import psutil

from actors.json_lines import append_row, read_log
from actors.policy.lora import read_lora
from conf.flux import FluxSettings
from pipelines.common.paths import RunPaths
from tests.policy.kill_scenarios import SCENARIOS, Scenario
from tests.policy.kills import RECOVERY_TIMEOUT_S, Operator, equal

WEIGHTS = {
    "rollout actor": 3.0,
    "reward replica": 3.0,
    "learner rank": 2.0,
    "policy worker": 4.0,
    "Serve controller": 1.0,
    "Serve proxy": 1.0,
    "driver": 0.6,
    "worker node": 0.4,
    "head": 0.1,
}
"""How often each role is chosen. A scenario has only some of them."""

TOGETHER = (1, 2, 3, 5, 8)
"""How many processes are killed at once, by chance."""

PAUSE_S = 8.0
"""Longest time between two kills. It ends earlier when the run has gone on by two iterations."""

WHILE_RECOVERING = 0.75
"""Share of the kills that do not wait until the run has recovered from the ones before."""

TIMEOUT_S = 2 * RECOVERY_TIMEOUT_S
"""Seconds without an iteration after which a run counts as stuck. A busy machine needs minutes for eight processes."""


@dataclass(frozen=True)
class Round:
    """One run of the campaign: what was killed, and how it ended."""

    number: int
    scenario: Literal["separate", "colocated"]
    killed: tuple[str, ...]
    """Role of each killed process, in order."""
    recoveries: tuple[float, ...]
    """Seconds until an iteration that started after the kills was finished."""
    seconds: float
    same: bool
    """Whether the last checkpoint and the export are those of the undisturbed run."""
    error: str = ""
    """Why the run did not end by itself."""


class ChaosOperator(Operator):
    """An operator of many runs, who also replaces a lost head."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        self.dead: set[int] = set()
        """Ids of the killed processes: the system may still list one for a moment."""
        super().__init__(folder, scenario)

    def strike(self, roles: Sequence[str]) -> list[str]:
        """Kills a process of each role, as far as there is one. Returns the roles of the killed ones."""
        killed: list[str] = []
        for role in roles:
            if role == "head":
                self.lose_head()
            elif role in ("driver", "worker node"):
                self.kill(role)
            elif not self.kill_one(role):
                continue
            killed.append(role)
        return killed

    def kill_one(self, role: str) -> bool:
        """Kills a process of a role that lives. Returns whether there was one."""
        victims = [process for process in self.processes(role) if process.pid not in self.dead]
        random.shuffle(victims)
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
                self.dead.add(victim.pid)
                return True
        return False

    def lose_head(self) -> None:
        """Kills head and driver at once, then the other nodes; starts a new cluster and submits the driver again."""
        self.cluster.remove_node(self.cluster.head_node, allow_graceful=False)
        self.kill_driver()
        self.restart_cluster()
        self.submit(self.run_dir.name)

    def restart_cluster(self) -> None:
        """Replaces all nodes."""
        for node in self.cluster.list_all_nodes():
            self.cluster.remove_node(node, allow_graceful=False)
        self.start_cluster()

    def ended(self) -> bool:
        """Whether the driver ended well. Raises RuntimeError if it ended otherwise."""
        code = self.driver.poll()
        if code:
            raise RuntimeError(f"the driver ended with {code}: {self.log()}")
        return code == 0

    def pause(self, seconds: float) -> None:
        """Waits, but not longer than the run needs for two iterations."""
        before, deadline = self.iteration(), time.monotonic() + seconds
        while time.monotonic() < deadline and self.iteration() <= before + 1 and self.driver.poll() is None:
            time.sleep(0.1)

    def wait_for_iteration(self, after: int) -> float:
        """Waits for a finished iteration later than `after`, or the end. Returns the seconds."""
        started = time.monotonic()
        while not self.ended() and self.iteration() <= after:
            if time.monotonic() - started > TIMEOUT_S:
                raise RuntimeError(f"no iteration after {after} within {TIMEOUT_S:.0f} s: {self.log()}")
            time.sleep(0.1)
        return time.monotonic() - started

    def is_as(self, reference: Path, version: int) -> bool:
        """Whether the last checkpoint and the export are those of an undisturbed run."""
        run_dir, mine = self.run_dir, self.states(version)
        exported = read_lora(RunPaths(run_dir).export, FluxSettings())
        self.run_dir = reference
        theirs, self.run_dir = self.states(version), run_dir
        return equal(mine, theirs) and equal(theirs[0]["lora"], exported)


def play(operator: ChaosOperator, number: int, name: Literal["separate", "colocated"], version: int) -> Round:
    """One run, which is killed in random moments, also while it starts, until it ends."""
    chance, started = random.Random(number), time.monotonic()
    roles = [
        role for role in WEIGHTS if role in operator.scenario.processes or role in ("driver", "worker node", "head")
    ]
    random.seed(number)  # of the victim among several processes of a role
    killed: list[str] = []
    recoveries: list[float] = []
    try:
        operator.submit(f"run-{number}")
        while not operator.ended():
            operator.pause(chance.uniform(0.0, PAUSE_S))
            drawn = chance.choices(roles, [WEIGHTS[role] for role in roles], k=chance.choice(TOGETHER))
            before = operator.iteration()
            if before >= version:
                break
            killed += operator.strike(drawn)
            if chance.random() >= WHILE_RECOVERING:
                recoveries.append(operator.wait_for_iteration(before + 1))
        if operator.driver.wait(timeout=TIMEOUT_S):
            raise RuntimeError(f"the driver ended with {operator.driver.returncode}: {operator.log()}")
        same, error = operator.is_as(operator.folder / f"undisturbed-{name}", version), ""
    except Exception as failure:
        same, error = False, f"{type(failure).__name__}: {failure}"[-4000:]
    return Round(number, name, tuple(killed), tuple(recoveries), time.monotonic() - started, same, error)


def campaign(folder: Path, kills: int, minutes: float, version: int) -> list[Round]:
    """Plays rounds until `kills` processes were killed, or `minutes` are over (0: no limit)."""
    log, deadline = folder / "chaos.jsonl", time.monotonic() + 60 * (minutes or 1e6)
    rounds = read_rounds(log)
    operator: ChaosOperator | None = None
    try:
        while sum(len(one.killed) for one in rounds) < kills and time.monotonic() < deadline:
            number = len(rounds)
            name: Literal["separate", "colocated"] = ("separate", "colocated")[number % 2]
            scenario = _short(SCENARIOS[name], version)
            operator = operator or ChaosOperator(folder, scenario)
            operator.scenario = scenario
            undisturbed = folder / f"undisturbed-{name}"
            if not RunPaths(undisturbed).export.exists():
                operator.submit(undisturbed.name)
                operator.driver.wait(timeout=2 * TIMEOUT_S)
                operator.ended()
            rounds.append(play(operator, number, name, version))
            append_row(log, asdict(rounds[-1]))
            print(line(rounds[-1]), flush=True)
            if rounds[-1].same:
                shutil.rmtree(operator.run_dir)
            else:
                operator.kill_driver()
                operator.restart_cluster()
    finally:
        if operator:
            if operator.driver.poll() is None:
                operator.kill_driver()
            operator.cluster.shutdown()
    return rounds


def read_rounds(log: Path) -> list[Round]:
    """The rounds that a campaign has played."""
    if not log.exists():
        return []
    return read_log(
        log, lambda row: Round(**{**row, "killed": tuple(row["killed"]), "recoveries": tuple(row["recoveries"])})
    )


def _short(scenario: Scenario, version: int) -> Scenario:
    return replace(scenario, settings=(*scenario.settings, f"policy.iterations={version}", "policy.minutes=0"))


def line(one: Round) -> str:
    """A round in one line."""
    counts = ", ".join(f"{count} {role}" for role, count in sorted(Counter(one.killed).items()))
    result = "the same" if one.same else f"NOT THE SAME {one.error[:200]}"
    return f"{one.number:>4}  {one.scenario:<9}  {one.seconds:>4.0f} s  {len(one.killed):>3} kills: {counts}  {result}"


def table(rounds: Sequence[Round]) -> str:
    """The campaign as Markdown: kills by role, then runs and recoveries."""
    lines = ["| killed | separate | colocated |", "|---|---|---|"]
    counts = {
        name: Counter(role for one in rounds if one.scenario == name for role in one.killed) for name in SCENARIOS
    }
    for role in WEIGHTS:
        lines.append(f"| {role} | {counts['separate'][role]} | {counts['colocated'][role]} |")
    lines.append(f"| all | {counts['separate'].total()} | {counts['colocated'].total()} |")
    recoveries = sorted(seconds for one in rounds for seconds in one.recoveries)
    same = sum(one.same for one in rounds)
    text = f"\n{len(rounds)} runs, {same} of them end with the bits of the undisturbed run."
    if recoveries:
        slow = recoveries[int(0.95 * (len(recoveries) - 1))]
        text += f" Next iteration after the kills: median {median(recoveries):.1f} s, 95 % within {slow:.1f} s."
    return "\n".join(lines) + "\n" + text


def main() -> None:
    """Runs or continues a campaign, and prints its table."""
    parser = argparse.ArgumentParser(description="Random kills in a loop of short runs of stage 3.")
    parser.add_argument(
        "folder", type=Path, help="the campaign: its log, its undisturbed runs, and runs that went wrong"
    )
    parser.add_argument("--kills", type=int, default=200, help="processes to kill, over all runs")
    parser.add_argument("--minutes", type=float, default=0.0, help="start no run after this time; 0: no limit")
    parser.add_argument("--iterations", type=int, default=16, help="policy versions of each run")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled", RAY_worker_niceness="0")
    rounds = campaign(arguments.folder.resolve(), arguments.kills, arguments.minutes, arguments.iterations)
    print(table(rounds))
    sys.exit(not all(one.same for one in rounds))


if __name__ == "__main__":
    main()
