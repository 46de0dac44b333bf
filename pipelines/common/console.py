"""How a command ends: the exit code, and at most one line that says why."""

from __future__ import annotations

from conf import UserError
from pipelines.common import interrupt, library_log, terminal


def report(error: BaseException, resumes: bool = False) -> int | None:
    """Tells the user why a command ended, and returns its exit code. None: the error is a fault, and must be raised.

    `resumes`: the same command continues after an interruption. An exit code that a command raised is passed on.
    """
    match error:
        case UserError():
            terminal.print_error(_message(error))
            return 2
        case KeyboardInterrupt():
            terminal.print_error("stopped; the same command goes on from here" if resumes else "stopped")
            return interrupt.exit_code()
        case SystemExit(code=str(message)):
            terminal.print_error(message)
            return 1
        case SystemExit(code=code):
            return code if isinstance(code, int) else 0
        case _:
            path = library_log.stop()
            if path:
                terminal.print_error(f"an error that is not handled follows. Messages of libraries: {path}")
            return None


def _message(error: UserError) -> str:
    """The text of an error. If it was raised in a Ray task, Ray's own text is a traceback, so its cause is shown."""
    cause = vars(error).get("cause")
    return str(cause if isinstance(cause, UserError) else error)
