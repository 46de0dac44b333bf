"""The memory of encoded prompts is bounded by bytes."""

from __future__ import annotations

import torch

from actors.policy.conditioning_cache import ConditioningCache
from actors.types import Conditioning


def test_the_oldest_prompts_are_forgotten_and_equal_ones_are_encoded_once() -> None:
    encoded: list[str] = []

    def encode(text: str) -> Conditioning:  # 40 bytes
        encoded.append(text)
        return Conditioning(torch.zeros(2, 4), torch.zeros(2))

    cache = ConditioningCache(encode, max_bytes=100)
    first, again, second = cache.get(["a", "a", "b"])
    assert first is again and first is not second and encoded == ["a", "b"] and cache.held_bytes == 80
    assert len(cache.get(["c", "d", "e"])) == 3  # more than fit: all are returned
    assert cache.held_bytes == 80
    cache.get(["d", "e", "a"])
    assert encoded == ["a", "b", "c", "d", "e", "a"]
