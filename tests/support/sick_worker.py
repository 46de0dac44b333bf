"""A worker for tests whose device fails. Its process imports little."""

from __future__ import annotations

from pathlib import Path

import torch

from actors.workers.faults import ends_on_device_fault


@ends_on_device_fault("rollout", survives=("out_of_memory",))
class SickWorker:
    """Answers as Rollout does, without a model. While a file is there, its next call fails as CUDA fails."""

    def __init__(self, sickness: Path) -> None:
        self._sickness = sickness

    def ready(self) -> bool:
        return True

    async def score(self, size: int) -> int:
        """Needs too much memory for large calls."""
        if size > 9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return size

    def generate_images(
        self, texts: list[str], seeds: list[int], weights: object, plan: object
    ) -> tuple[None, list[int]]:
        if self._sickness.exists():
            self._sickness.unlink()
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore lines")
        return None, seeds
