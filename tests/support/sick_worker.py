"""Workers for tests whose device fails. Their processes import little."""

from __future__ import annotations

from pathlib import Path

import torch

from actors.workers.faults import ends_on_device_fault


@ends_on_device_fault("rollout")
class SickWorker:
    """Answers as Rollout does, without a model. While a file is there, its next call fails as CUDA fails."""

    def __init__(self, sickness: Path) -> None:
        self._sickness = sickness

    def ready(self) -> bool:
        return True

    def generate_images(
        self, texts: list[str], seeds: list[int], weights: object, plan: object
    ) -> tuple[None, list[int]]:
        if self._sickness.exists():
            self._sickness.unlink()
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore lines")
        return None, seeds


@ends_on_device_fault("reward", survives=("out_of_memory",))
class FullWorker:
    """A replica that has too little memory for large calls, and continues."""

    async def score(self, size: int) -> int:
        if size > 9:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        return size
