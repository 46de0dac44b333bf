"""`submit`, `status` and `config`: starting a job, following it, and looking at its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from conf.rules import Section, at_least


@dataclass(frozen=True)
class SubmitSettings(Section):
    """`submit`: another verb as a job on a running cluster."""

    section: ClassVar[str] = "submit"

    address: str = ""
    """Ray dashboard, e.g. http://127.0.0.1:8265. Empty: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine."""

    working_dir: str = "."
    """Folder that is sent to the cluster, without the files that .gitignore and .rayignore name."""

    follow: bool = True
    """Print the job's log until it ends, and exit with the job's exit code."""

    stop_on_interrupt: bool = False
    """Ctrl-C stops the job too. Otherwise it only stops following the log."""

    command: str = ""
    """Set by the program: the command that follows `submit`."""


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


@dataclass(frozen=True)
class ConfigSettings(Section):
    """`config`: what is printed."""

    section: ClassVar[str] = "config"

    only: str = ""
    """Print only this section, e.g. policy or policy.optimizer. Empty: all."""
