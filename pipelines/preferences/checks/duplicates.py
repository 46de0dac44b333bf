"""Finds near-duplicates: prompts that share most of their word sequences, and pairs whose images look alike."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pipelines.preferences.checks.words import words_of

IMAGE_BITS = 4  # two images are alike if their perceptual hashes differ in at most this many bits
_BITS, _IMAGE_BANDS = 64, IMAGE_BITS + 1  # with one band more than differing bits, at least one band is equal
_SEQUENCE = 3  # words
_HASHES, _BAND = 64, 4  # MinHash: 16 bands of 4 hashes find 99 % of the prompts that share 0.7 of their sequences
_PRIME = (1 << 31) - 1


def near_duplicate_prompts(prompts: Sequence[str], share: float) -> list[int]:
    """Indices of the prompts that share at least `share` of their 3-word sequences (Jaccard) with an earlier prompt.

    Finds candidates by MinHash in bands (Broder 1997) and compares each exactly.
    """
    rng = np.random.default_rng(0)
    factors, offsets = (rng.integers(1, _PRIME, _HASHES, dtype=np.uint64) for _ in range(2))
    kept: dict[bytes, list[int]] = {}
    dropped: list[int] = []
    for i, prompt in enumerate(prompts):
        sequences = _sequences(prompt)
        values = np.fromiter(sequences, np.uint64)
        smallest = ((values[:, None] * factors + offsets) % _PRIME).min(0).astype(np.uint32)  # [64]
        bands = [bytes([at]) + smallest[at : at + _BAND].tobytes() for at in range(0, _HASHES, _BAND)]
        candidates = {j for band in bands for j in kept.get(band, ())}
        if any(_jaccard(sequences, _sequences(prompts[j])) >= share for j in candidates):
            dropped.append(i)
        else:
            for band in bands:
                kept.setdefault(band, []).append(i)
    return dropped


def near_duplicate_images(phashes: Sequence[tuple[str, str]]) -> list[int]:
    """Indices of the pairs of which both images look like those of an earlier pair.

    `phashes` holds the perceptual hashes of winner and loser, 64 bits as hex.
    """
    kept: dict[tuple[int, int], list[int]] = {}
    hashes = np.array([[int(phash, 16) for phash in pair] for pair in phashes], np.uint64).reshape(-1, 2)  # [N, 2]
    dropped: list[int] = []
    for i, (winner, _) in enumerate(phashes):
        bands = _bands(int(winner, 16))
        candidates = [j for band in bands for j in kept.get(band, ())]
        differing = np.bitwise_count(hashes[candidates] ^ hashes[i])  # [candidates, 2] bits
        if (differing <= IMAGE_BITS).all(1).any():
            dropped.append(i)
        else:
            for band in bands:
                kept.setdefault(band, []).append(i)
    return dropped


def _bands(phash: int) -> list[tuple[int, int]]:
    edges = [_BITS * i // _IMAGE_BANDS for i in range(_IMAGE_BANDS + 1)]
    return [(i, phash >> a & (1 << b - a) - 1) for i, (a, b) in enumerate(pairwise(edges))]


def _sequences(prompt: str) -> set[int]:
    """31-bit digests of the 3-word sequences of a prompt, or of the whole prompt if it is shorter."""
    words = words_of(prompt)
    parts = [words[at : at + _SEQUENCE] for at in range(max(1, len(words) - _SEQUENCE + 1))]
    return {zlib.crc32(" ".join(part).encode()) & _PRIME for part in parts}


def _jaccard(one: set[int], other: set[int]) -> float:
    return len(one & other) / len(one | other)
