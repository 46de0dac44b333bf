"""An experiment tracker that keeps what it receives, and fails on request."""

from __future__ import annotations

from typing import Any, ClassVar

from accelerate.tracking import GeneralTracker


class FailingTracker(GeneralTracker):
    """Raises in its first `failures` calls of `log`. What it took is in `taken`."""

    name = "failing"
    requires_logging_directory = False
    main_process_only = False
    failures: ClassVar[int] = 0
    taken: ClassVar[list[tuple[int, dict[str, float]]]] = []
    error: ClassVar[str] = ""

    def __init__(self, run_name: str) -> None:
        super().__init__()
        self.run_name = run_name

    @property
    def tracker(self) -> str:
        return self.run_name

    def log(self, values: dict[str, float], step: int | None = None, **kwargs: Any) -> None:
        if type(self).failures:
            type(self).failures -= 1
            raise ConnectionError(self.error)
        self.taken.append((step or 0, values))
