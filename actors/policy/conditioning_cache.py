"""What the text encoders gave for the newest prompts, kept in host memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from actors.types import Conditioning

MAX_BYTES = 256 * 2**20
"""64 prompts of FLUX.1-dev with T5 at 512 tokens in bfloat16: 4 MB each."""


class ConditioningCache:
    """Encodes each text once while it is remembered. One thread at a time may use it."""

    def __init__(self, encode: Callable[[str], Conditioning], max_bytes: int = MAX_BYTES) -> None:
        """The oldest texts are forgotten while the others hold more than `max_bytes`."""
        self._encode, self._max_bytes = encode, max_bytes
        self._known: dict[str, Conditioning] = {}
        self.held_bytes = 0

    def get(self, texts: Sequence[str]) -> list[Conditioning]:
        """The conditioning of each text: the same object for equal texts."""
        found = {text: self._known.get(text) or self._encode(text) for text in dict.fromkeys(texts)}
        for text, conditioning in found.items():
            if text not in self._known:
                self._known[text] = conditioning
                self.held_bytes += _num_bytes(conditioning)
        while self.held_bytes > self._max_bytes:
            oldest = next(iter(self._known))
            self.held_bytes -= _num_bytes(self._known.pop(oldest))
        return [found[text] for text in texts]


def _num_bytes(conditioning: Conditioning) -> int:
    pooled = conditioning.pooled_embeds
    return conditioning.prompt_embeds.nbytes + (0 if pooled is None else pooled.nbytes)
