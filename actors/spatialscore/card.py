"""The README.md of a SpatialScore directory: a model card as hubs read it, with what its training is known to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CARD_FILE = "README.md"
_BEGINS, _ENDS = "<!-- accuracy -->", "<!-- /accuracy -->"

_CARD = """---
license: apache-2.0
{base_model}library_name: transformers
tags:
- reward-model
- text-to-image
- spatial-understanding
- qwen2_5_vl
---

# SpatialScore

A reward model for text-to-image generation: how well does an image show every spatial relation of its prompt? Higher
is better; scores of one prompt's images are to be compared with each other. sigma is the model's own spread.

```python
from actors.spatialscore import SpatialScorer  # of the project SpatialT2I

scorer = SpatialScorer.from_pretrained("path/to/this/directory")
scores = scorer.score(images=images, prompts=prompts)  # uint8 [H, W, 3] each, one prompt an image
print(scores.mu, scores.sigma)
```

| | |
|---|---|
{rows}

<!-- accuracy -->
Its accuracy on held-out pairs was not measured yet.
<!-- /accuracy -->

The adapter and head are under Apache-2.0. The backbone keeps the licence of its authors, which may be narrower
(Qwen2.5-VL-3B, for one, is not for commercial use).
"""


class CardConfig(Protocol):
    """What the card tells of a model's make."""

    @property
    def model(self) -> str: ...
    @property
    def pixels(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def lora_rank(self) -> int: ...
    @property
    def lora_alpha(self) -> int: ...
    @property
    def head_width(self) -> int: ...
    @property
    def merged(self) -> bool: ...


@dataclass(frozen=True)
class TrainingInfo:
    """What is known of a training. Empty: not known."""

    loss: str = ""  # bt | sampled | marginal | probit
    pairs: int = 0  # of the training split
    steps: int = 0


NO_TRAINING_INFO = TrainingInfo()


def model_card(config: CardConfig, facts: TrainingInfo) -> str:
    """The card's text. Of a backbone in a local folder it tells the folder's name alone, not where it lies."""
    local = Path(config.model).is_dir()
    base = Path(config.model).name if local else config.model
    adapter = f"rank {config.lora_rank}, alpha {config.lora_alpha}, {'merged' if config.merged else 'separate'}"
    rows = [
        ("backbone", f"{base}, {config.dtype}"),
        ("LoRA", f"{adapter}; with it the embedding row of `<reward>` was trained"),
        ("head", f"MLP of width {config.head_width} at `<reward>`, float32, gives (mu, log sigma)"),
        ("images", f"resized to about {config.pixels} pixels"),
    ]
    if facts.loss:
        rows.append(("loss", f"`{facts.loss}`, on pairs of which one image shows the prompt"))
    if facts.pairs:
        rows.append(("training", f"{facts.pairs} pairs, {facts.steps} optimizer steps"))
    return _CARD.format(
        base_model="" if local else f"base_model: {base}\n",
        rows="\n".join(f"| {name} | {value} |" for name, value in rows),
    )


def with_accuracy(card: str, rows: Sequence[tuple[str, str]]) -> str:
    """The card with a table of held-out accuracy in place of what it said of it: (which pairs, share)."""
    lines = ["| held-out pairs | in the right order |", "|---|---|", *(f"| {kind} | {share} |" for kind, share in rows)]
    head, _, rest = card.partition(_BEGINS)
    _, _, tail = rest.partition(_ENDS)
    return head + _BEGINS + "\n" + "\n".join(lines) + "\n" + _ENDS + tail
