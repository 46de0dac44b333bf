"""One driver a run directory: a lease, which the driver renews while it lives.

The lease is a file in the run directory that names its holder. It is renewed by a new time stamp, which needs no space
on the disk. A second driver is refused. If the holder was a process of this machine that has ended, its lease is taken
over at once; a holder on another machine counts as ended if its lease does not change for STALE_SECONDS. That time is
measured by the monotonic clock of the one that waits, so no wall clock matters.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from actors.json_files import JsonError, read_record
from conf.errors import UserError
from conf.partial import machine_id, partial_path, process_start
from pipelines.common.terminal import print_error

RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
CHECK_SECONDS = 1.0
"""Time between two looks at the lease, by its holder and by a driver that waits."""
STOP_SECONDS = 30.0
"""Time that a driver has to stop after it has lost its lease."""
IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable that Ray sets for the entrypoint of a submitted job."""


class LeaseLostError(UserError):
    """Another driver has taken over the run directory. This one must not write to it again."""


@dataclass(frozen=True)
class Holder:
    """The driver that holds a run directory."""

    token: str
    host: str
    machine: str
    """See `machine_id`."""
    pid: int
    started: str
    """See `process_start`."""
    job: str
    """Id of the Ray job, or ""."""

    @classmethod
    def me(cls) -> Holder:
        """This process."""
        pid = os.getpid()
        return cls(uuid.uuid4().hex, os.uname().nodename, machine_id(), pid, process_start(pid) or "", _job())

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" + (f", job {self.job}" if self.job else "")

    def has_ended(self) -> bool:
        """Whether the holder is known to have ended, as a process of this machine."""
        return self.machine == machine_id() and process_start(self.pid) != self.started


class Lease:
    """The lease of this process on one run directory."""

    held: ClassVar[dict[Path, Lease]] = {}
    """Leases of this process by the file."""

    def __init__(self, file: Path) -> None:
        self.file, self.holder = file, Holder.me()
        self.uses = 0
        self._lost: Holder | None = None
        self._released = threading.Event()

    def acquire(self, take_over: bool, log: Callable[[str], None]) -> None:
        """Takes the lease, and renews it from now on. Raises UserError if another driver holds it."""
        deadline, seen, waiting = 0.0, None, False
        while True:
            with _locked(self.file):
                other = read_holder(self.file)
                if other is None or other.has_ended() or take_over or (waiting and time.monotonic() > deadline):
                    self._write()
                    break
            if other.machine == machine_id():
                raise UserError(_refusal(other, self.file))
            stamp = _stamp(self.file)
            if not waiting:
                deadline, seen, waiting = time.monotonic() + STALE_SECONDS, (other.token, stamp), True
                log(f"{self.file.parent} is held by {other}: waiting up to {STALE_SECONDS:.0f} s to see if it lives")
            elif (other.token, stamp) != seen:
                raise UserError(_refusal(other, self.file))
            time.sleep(CHECK_SECONDS)
        if other:
            ended = waiting or other.has_ended()
            log(f"taking over {self.file.parent} from {other}, which {'has ended' if ended else 'is asked to stop'}")
            if not ended:
                _wait_for_end(other)
        threading.Thread(target=self._renew, name="lease", daemon=True).start()

    def check(self) -> None:
        """Raises LeaseLostError if another driver holds the run directory."""
        other = read_holder(self.file)
        if other and other.token != self.holder.token:
            self._lost = other
            raise LeaseLostError(self.lost_message())

    def lost_message(self) -> str:
        """Why this driver had to stop; "" if it holds the lease."""
        if self._lost is None:
            return ""
        return f"{self.file.parent} was taken over by {self._lost}: this driver has stopped and writes nothing more"

    def release(self) -> None:
        """Gives the lease back, unless another driver holds it."""
        self._released.set()
        with suppress(OSError), _locked(self.file):
            other = read_holder(self.file)
            if other and other.token == self.holder.token:
                self.file.unlink()

    def _write(self) -> None:
        partial = Path(partial_path(str(self.file)))
        try:
            partial.write_text(json.dumps(asdict(self.holder)))
            partial.replace(self.file)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def _renew(self) -> None:
        """Renews the lease until it is released or lost. Then it ends the main thread's work."""
        renewed = time.monotonic()
        while not self._released.wait(CHECK_SECONDS):
            try:
                self.check()
                if not self.file.exists():
                    self._write()  # somebody has cleaned the folder
                elif time.monotonic() - renewed >= RENEW_SECONDS:
                    os.utime(self.file)
                    renewed = time.monotonic()
            except LeaseLostError as error:
                _interrupt_main_thread()
                if not self._released.wait(STOP_SECONDS):
                    print_error(str(error))
                    os._exit(2)  # it hangs, and must not write again
                return
            except OSError as error:
                logging.warning("the lease %s was not renewed: %s", self.file, error)


@contextmanager
def hold_lease(file: Path, take_over: bool = False, log: Callable[[str], None] = print) -> Generator[Lease]:
    """Inside the block this process is the only driver of the run directory that holds `file`.

    Blocks can be nested. The folder must exist. Raises UserError if another driver is at work there, and LeaseLostError
    if another one has taken over meanwhile.
    """
    file = file.resolve()
    lease = Lease.held.get(file)
    if lease is None:
        lease = Lease(file)
        lease.acquire(take_over, log)
        Lease.held[file] = lease
    lease.uses += 1
    try:
        yield lease
    except BaseException as error:
        if lease.lost_message() and not isinstance(error, LeaseLostError):
            raise LeaseLostError(lease.lost_message()) from error
        raise
    finally:
        lease.uses -= 1
        if not lease.uses:
            del Lease.held[file]
            lease.release()


def check_lease(file: Path) -> None:
    """Raises LeaseLostError if this process held the lease and another driver has taken it. Call it before a write."""
    lease = Lease.held.get(file.resolve())
    if lease:
        lease.check()


def read_holder(file: Path) -> Holder | None:
    """The holder that a lease names. None if there is no lease, or one that cannot be read."""
    try:
        return read_record(str(file), Holder) if file.is_file() else None
    except (FileNotFoundError, JsonError):
        return None


@contextmanager
def _locked(file: Path) -> Generator[None]:
    """Keeps other processes from reading and writing the lease at once, where the file system supports locks."""
    descriptor = os.open(file.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # not supported: two drivers that start in the same millisecond may collide
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _refusal(other: Holder, file: Path) -> str:
    age = max(0.0, time.time() - file.stat().st_mtime) if file.exists() else 0.0
    return (
        f"{file.parent} is in use by another driver: {other}, whose lease was renewed {age:.0f} s ago. Wait for it "
        f"(`spatialt2i status run_dir={file.parent}`), stop it, or choose another run_dir; take_over=true makes it "
        "stop and continues its work here"
    )


def _wait_for_end(other: Holder) -> None:
    """Waits until a driver that lost its lease has stopped: it looks every second, and has STOP_SECONDS to stop."""
    deadline = time.monotonic() + STOP_SECONDS + 5 * CHECK_SECONDS
    while time.monotonic() < deadline and not other.has_ended():
        time.sleep(CHECK_SECONDS / 4)


def _stamp(file: Path) -> int:
    """The time stamp of a lease. Opening it makes a network file system look at the server's copy."""
    try:
        with file.open("rb") as stream:
            return os.fstat(stream.fileno()).st_mtime_ns
    except FileNotFoundError:
        return 0


def _interrupt_main_thread() -> None:
    """Raises KeyboardInterrupt in the main thread, as Ctrl-C does, also in a shell's job in the background."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            signal.pthread_kill(threading.main_thread().ident or 0, number)
            return


def _job() -> str:
    """Id of the submitted Ray job that this process is the entrypoint of; "" if it is none."""
    try:
        return str(json.loads(os.environ.get(IN_A_JOB, "{}"))["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return ""
