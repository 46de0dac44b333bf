"""The words that a model of the scenes world knows. It reads every other word as the same unknown word."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_NAMED = 12
"""Unknown words that a warning names."""
TOKENIZERS = ("tokenizer_2/tokenizer.json", "tokenizer/tokenizer.json", "tokenizer.json")
"""Where a pipeline or a SpatialScore keeps the tokenizer that reads its prompts. The first one that exists counts."""
_WORD = re.compile(r"\w+|[^\w\s]+")


@dataclass(frozen=True)
class Vocabulary:
    """The words of a word-level tokenizer."""

    words: frozenset[str]
    lower_case: bool
    """Whether the tokenizer reads capital letters as small ones."""

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """The words of the texts that the tokenizer does not know, each once, in order."""
        found: dict[str, None] = {}
        for text in texts:
            for word in _WORD.findall(text.lower() if self.lower_case else text):
                if word not in self.words:
                    found[word] = None
        return list(found)


def read_vocabulary(model: Path) -> Vocabulary | None:
    """The vocabulary of the model in a folder; None without a tokenizer, or if it builds every word from parts."""
    path = next((model / name for name in TOKENIZERS if (model / name).is_file()), None)
    if path is None:
        return None
    tokenizer: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if tokenizer["model"]["type"] != "WordLevel":
        return None
    normalizer = tokenizer.get("normalizer") or {}
    return Vocabulary(frozenset(tokenizer["model"]["vocab"]), normalizer.get("type") == "Lowercase")


def vocabulary_warning(texts: Sequence[str], model: Path, name: str) -> str:
    """What to warn of if the texts have words that the model does not know, else "". `name`: the model for users."""
    vocabulary = read_vocabulary(model)
    unknown = vocabulary.unknown(texts) if vocabulary else []
    if not unknown:
        return ""
    named = ", ".join(repr(word) for word in unknown[:MAX_NAMED])
    more = f" and {len(unknown) - MAX_NAMED} more" if len(unknown) > MAX_NAMED else ""
    return (
        f"{name} does not know {named}{more}: it is a small model of the scenes world, for prompts such as "
        "'a red circle left of a blue square'. It reads every unknown word alike, so the result means little"
    )


def vocabulary_note(model: Path, name: str) -> str:
    """A note about a model that knows few words, before any prompt is known; "" for other models."""
    if read_vocabulary(model) is None:
        return ""
    return (
        f"note: {name} is a small model of the scenes world. It knows prompts such as 'a red circle left of a blue "
        "square' and images of that world only; other prompts and images get scores that mean little"
    )
