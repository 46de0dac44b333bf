"""The model card of a SpatialScore directory (README.md): backbone, training and held-out accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from actors.spatialscore.config import SpatialScoreConfig

CARD_FILE = "README.md"
_ACCURACY_START, _ACCURACY_END = "<!-- accuracy -->", "<!-- /accuracy -->"

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

A reward model for text-to-image generation. It scores how well an image shows the spatial relations of its prompt.
Higher is better. Compare scores of images of the same prompt only. sigma is the standard deviation that the model
predicts for its score.
{scope}
```python
from actors.spatialscore import SpatialScorer  # package spatialt2i

scorer = SpatialScorer.from_pretrained("path/to/this/directory")
scores = scorer.score(images=images, prompts=prompts)  # each image uint8 [H, W, 3], one prompt per image
print(scores.mu, scores.sigma)
```

| | |
|---|---|
{rows}

<!-- accuracy -->
The accuracy on held-out pairs has not been measured.
<!-- /accuracy -->

The adapter and the head are licensed under Apache-2.0. The backbone keeps its authors' licence, which may be more
restrictive (that of Qwen2.5-VL-3B, for example, excludes commercial use).
"""


SMALL_VOCABULARY = 1000
"""Tokens below which a backbone is one of the small models of the scenes world."""
_SMALL_SCOPE = """
This is a small model of one renderer. Its tokenizer has {tokens} tokens, and it has seen rendered scenes of coloured
shapes only. Its scores of other images and prompts mean nothing.
"""


@dataclass(frozen=True)
class TrainingInfo:
    """How a SpatialScore was trained. Empty fields are unknown."""

    loss: str = ""  # bt | sampled | marginal | probit
    pairs: int = 0  # pairs of the training split
    steps: int = 0  # optimizer steps


NO_TRAINING_INFO = TrainingInfo()


def model_card(config: SpatialScoreConfig, training: TrainingInfo, tokens: int) -> str:
    """The text of the card. A backbone in a local folder is shown by the folder's name, without its path.

    `tokens`: size of the tokenizer. The card of a small model says what it does not know.
    """
    is_local = Path(config.model).is_dir()
    base = Path(config.model).name if is_local else config.model
    lora = f"rank {config.lora_rank}, alpha {config.lora_alpha}, {'merged' if config.merged else 'separate'}"
    rows = [
        ("backbone", f"{base}, {config.dtype}"),
        ("LoRA", f"{lora}; the embedding row of `<reward>` was trained too"),
        (
            "head",
            f"MLP of width {config.head_width} on the hidden state of `<reward>`, float32, output (mu, log sigma)",
        ),
        ("images", f"resized to about {config.pixels} pixels"),
    ]
    if training.loss:
        rows.append(("loss", f"`{training.loss}` on pairs of images of which one shows the prompt"))
    if training.pairs:
        rows.append(("training", f"{training.pairs} pairs, {training.steps} optimizer steps"))
    return _CARD.format(
        scope=_SMALL_SCOPE.format(tokens=tokens) if tokens < SMALL_VOCABULARY else "",
        base_model="" if is_local else f"base_model: {base}\n",
        rows="\n".join(f"| {name} | {value} |" for name, value in rows),
    )


def with_accuracy(card: str, rows: Sequence[tuple[str, str]]) -> str:
    """The card with a new table of held-out accuracy. `rows`: (kind of pairs, accuracy)."""
    table = ["| held-out pairs | in the right order |", "|---|---|", *(f"| {kind} | {share} |" for kind, share in rows)]
    before, _, rest = card.partition(_ACCURACY_START)
    _, _, after = rest.partition(_ACCURACY_END)
    return before + _ACCURACY_START + "\n" + "\n".join(table) + "\n" + _ACCURACY_END + after
