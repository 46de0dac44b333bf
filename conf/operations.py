"""`submit`, `status`, `doctor` and `config`: starting a job, following it, and looking at its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from conf.errors import SettingsError
from conf.rules import Section, at_least

DASHBOARD = re.compile(r"https?://[^/\s]+(/\S*)?")


@dataclass(frozen=True)
class SubmitSettings(Section):
    """`submit`: another verb as a job on a running cluster."""

    section: ClassVar[str] = "submit"

    address: str = ""
    """Ray dashboard, e.g. http://127.0.0.1:8265. Empty: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine."""

    verify: str = "true"
    """Certificates for https. true: those of the system; a file or folder of a private CA; false: not checked."""

    working_dir: str = "."
    """This repository's folder, which is sent without the files that .gitignore and .rayignore name."""

    follow: bool = True
    """Print the job's log until it ends, and exit with the job's exit code."""

    patience_minutes: float = field(default=30.0, metadata=at_least(0))
    """Minutes to try again if the cluster stops to answer. Then exit code 75: the job may still run."""

    keep: bool = False
    """Submit again if the job fails or is lost with the head, until it ends well or fails three times early."""

    stop_on_interrupt: bool = False
    """Ctrl-C stops the job too. Otherwise it only stops following the log."""

    command: str = ""
    """Set by the program: the command that follows `submit`."""

    writes_run: bool = False
    """Set by the program: whether that command is a driver of its run, of which there is one at a time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.address and not DASHBOARD.fullmatch(self.address):
            raise SettingsError(
                f"submit.address must be the URL of Ray's dashboard, got {self.address!r}: write e.g. "
                f"submit.address=http://{self.address.rpartition('://')[2] or '127.0.0.1:8265'}"
            )
        if not self.verify:
            raise SettingsError("submit.verify must be true, false, or a file or folder of certificates, got ''")
        if self.keep and not self.follow:
            raise SettingsError("submit.keep=true submits again after it has followed the job: set submit.follow=true")


@dataclass(frozen=True)
class StatusSettings(Section):
    """`status`: the state of a run, in the terminal."""

    section: ClassVar[str] = "status"

    every: float = field(default=2.0, metadata=at_least(0.1))
    """Seconds between two updates."""

    once: bool = False
    """Print the state once and exit, as without a terminal, e.g. in a pipe."""

    address: str = "http://127.0.0.1:8265"
    """Ray dashboard. If it does not answer, the cluster's state is left out."""


Stage = Literal["preferences", "reward", "policy", "evaluation", "benchmark"]


@dataclass(frozen=True)
class DoctorSettings(Section):
    """`doctor`: what is checked."""

    section: ClassVar[str] = "doctor"

    stage: Literal["all", Stage] = "all"
    """Check only what this stage needs. all: whatever the preset needs."""

    all_reduce: bool = False
    """Also add up a tensor over all GPUs of the cluster, as learner ranks do. It needs every GPU for a minute."""


@dataclass(frozen=True)
class ConfigSettings(Section):
    """`config`: what is printed."""

    section: ClassVar[str] = "config"

    only: str = ""
    """Print only this section, e.g. policy or policy.optimizer. Empty: all."""
