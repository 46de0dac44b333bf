"""Warns if a policy was trained on the prompts that it is measured with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from conf.settings import Settings
from pipelines.benchmark.work import Work
from pipelines.common.prompts import read_prompt_setting
from pipelines.common.terminal import print_warning


def overlaps(settings: Settings, work: Sequence[Work]) -> dict[str, int]:
    """Benchmark -> number of its prompts that are among the training prompts, whatever their case and punctuation.

    Only benchmarks with such prompts are listed. The training prompts are those of the file `policy.prompts`.
    """
    if not settings.policy.prompts or not Path(settings.policy.prompts).is_file():
        return {}
    trained = {plain(prompt.text) for prompt in read_prompt_setting("policy.prompts", settings.policy.prompts)}
    shared = {each.name: len({item.prompt for item in each.items if plain(item.prompt) in trained}) for each in work}
    return {name: count for name, count in shared.items() if count}


def overlap_text(name: str, count: int) -> str:
    """What an overlap means, in one sentence."""
    return (
        f"{count} prompts of {name} are in policy.prompts: the policy was trained on them, so its figures say nothing "
        "about new prompts"
    )


def warn_of_overlap(settings: Settings, work: Sequence[Work]) -> None:
    """Prints one warning for each benchmark that shares prompts with the training."""
    for name, count in overlaps(settings, work).items():
        print_warning(overlap_text(name, count))


def plain(text: str) -> str:
    """A prompt in lower case, without punctuation and repeated spaces."""
    return " ".join(re.findall(r"\w+", text.casefold()))
