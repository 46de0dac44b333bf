"""When a fit measures, reports and saves. Optimizer steps are counted from 1: `done` of them are complete."""

from __future__ import annotations

from dataclasses import dataclass

from conf.reward import RewardSettings


@dataclass(frozen=True)
class FitSchedule:
    """The optimizer steps after which something else happens, the same on every rank."""

    settings: RewardSettings
    steps_per_epoch: int
    steps: int  # of the fit

    def measures(self, done: int) -> bool:
        """Whether the accuracy on held-out pairs is measured: `reward.evaluate_every`, or at the end of an epoch."""
        every = self.settings.evaluate_every
        return done % every == 0 if every else self._epoch_ends(done)

    def reports(self, done: int) -> bool:
        """Whether the metrics of all ranks are added up: `reward.log_every`, an epoch's end, and each measurement."""
        return done % self.settings.log_every == 0 or self._epoch_ends(done) or self.measures(done)

    def saves(self, done: int) -> bool:
        """Whether a checkpoint is written: `reward.checkpoint_every`, and at the end of an epoch."""
        return done % self.settings.checkpoint_every == 0 or self._epoch_ends(done)

    def _epoch_ends(self, done: int) -> bool:
        return done % self.steps_per_epoch == 0
