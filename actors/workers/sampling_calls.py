"""What a driver needs to call actors that sample, without the libraries that their processes import."""

from __future__ import annotations

from dataclasses import dataclass

import ray

from actors.types import PolicyWeights

CALLS_PER_ACTOR = 2
"""Calls that an actor holds, so that it never waits for the driver. On a GPU both run at once; see ImageSampler."""


@dataclass(frozen=True)
class WeightsHandle:
    """Names a LoRA and holds its reference. The reference is wrapped, so an actor fetches it only if it needs it."""

    version: int
    averaged: bool
    """The moving average of the weights, which is evaluated, instead of the policy itself."""
    reference: ray.ObjectRef[PolicyWeights] | None
    """None if only learner ranks sample, which have the weights themselves."""


def sampling_returns(images: int) -> int:
    """Number of objects that `sample_group` returns for this many images."""
    return 3 + images
