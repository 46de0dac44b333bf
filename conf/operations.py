"""`submit` and `status`: how an operator starts a job and looks at it."""

from __future__ import annotations

from dataclasses import dataclass

from conf.rules import at_least


@dataclass(frozen=True)
class SubmitSettings:
    """`submit`: another verb as a job on a running cluster."""

    address: str = ""  # of the dashboard, e.g. http://127.0.0.1:8265; empty: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, local
    working_dir: str = "."  # sent to the cluster, less what .gitignore and .rayignore name
    follow: bool = True  # print the job's log until it ends, and exit with the job's code
    stop_on_interrupt: bool = False  # Ctrl-C stops the job too; otherwise it only stops following
    command: str = ""  # filled in from the words after `submit`


@dataclass(frozen=True)
class StatusSettings:
    """`status`: a run, in the terminal."""

    every: float = 2.0  # seconds between two looks
    once: bool = False  # print one look and end
    address: str = "http://127.0.0.1:8265"  # of Ray's dashboard; where nothing answers, the cluster is left out

    def __post_init__(self) -> None:
        at_least("status.every", self.every, 0.1)
