"""SpatialGenEval: ten multiple-choice questions about each image (arXiv 2601.20354). Its repository names no licence.

In the published order of the options, C is right in 46 % of the questions, so a judge that prefers a letter is
rewarded. Here the options are shuffled, except "E: None"; `shuffle=False` asks as published. The score of always giving
one letter is part of the table.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conf import UserError
from pipelines.benchmark.items import (
    BenchmarkItem,
    JudgeCall,
    JudgeForm,
    Judgement,
    Misread,
    Parsed,
    Part,
    Problem,
    Question,
    ScoreProtocol,
    Source,
    Wording,
)
from pipelines.benchmark.judgements import Judgements
from pipelines.benchmark.published_files import Line, check_file, first_existing, read_items, string_of, strings_of
from pipelines.benchmark.scores import Cell, Counts, Stratum, Summary, pool
from pipelines.benchmark.wordings import constants_of, system_line, wording_of

ROLLOUTS = 5
"""Answers about each image in the published protocol, at temperature 1."""
AGREEMENT = 0.8
"""Share of the answers that must give an option; officially 4 of 5."""

BASIC = ("Object", "Attribute")
LETTERS = "ABCDE"
PLACEHOLDER = "##Multiple-Choice Questions##"
SCRIPT = "scripts/spatialgeneval_stage1_eval.py"
SHA256 = "af1d206f5773a754e903596734a85ac4c818db85570aa2e5d6b873b41e609280"
SOURCE = Source(
    "AMAP-ML/SpatialGenEval",
    "8b294b5fd0bca204fcfbf2cd74b75d9c359e40f6",
    ("eval/SpatialGenEval_T2I_Prompts.jsonl", SCRIPT),
    "none named",
    "the repository names no licence: ask its authors before you share its prompts or questions",
)
GET = SOURCE.how_to_get
OWN_TEMPLATE = (
    "Look closely at the image and answer the multiple-choice questions below by what it shows, without other "
    "knowledge. If the image does not answer a question, choose the option None.\n\n##Multiple-Choice Questions##\n\n"
    "Write one line for each question, in the same order. Begin each line with the letter of one option, then a colon "
    "and a short reason. Write nothing else."
)
_OPTION = re.compile(r"(?:,\s*|^\s*|\s+)([A-E]): ")


@dataclass(frozen=True)
class SpatialGenEval:
    """SpatialGenEval. Values of an answer are published letters, one for each rollout, such as "CCCBC"."""

    shuffle: bool = True
    name: str = "spatialgeneval"
    title: str = "SpatialGenEval"
    folder: str = "spatialgeneval"
    source: Source = SOURCE
    form: JudgeForm = "chat"

    def check(self, folder: Path) -> Sequence[Problem]:
        """What is wrong with the file of prompts."""
        return check_file(_file(folder), SHA256, GET)

    def load(self, folder: Path, part: Part) -> tuple[BenchmarkItem, ...]:
        """Reads all prompts; `part` makes no difference."""
        return read_items(_file(folder), GET, _item)

    def wording(self, folder: Path) -> Wording:
        """The published wording, if the authors' script lies in the clone; else ours."""
        text = constants_of(folder / SCRIPT).get("vlm_content_template")
        if isinstance(text, str) and PLACEHOLDER in text:
            return wording_of((text,), f"published, {SCRIPT}", system_line(folder / SCRIPT))
        return wording_of((OWN_TEMPLATE,), f"of this project, as {SCRIPT} is not in the folder of SpatialGenEval")

    def ask(self, item: BenchmarkItem, image: int, attempt: int, wording: Wording) -> JudgeCall:
        """All questions in one call, at temperature 1."""
        lines = "\n".join(
            f"{each.text}  Options: {', '.join(_shown(item, each, self.shuffle))}" for each in item.questions
        )
        text = wording.templates[0].replace(PLACEHOLDER, lines)
        return JudgeCall(text, wording.system, options={"temperature": 1.0})

    def parse(self, item: BenchmarkItem, reply: str) -> Parsed | Misread:
        """The first character of each line that is not blank, as the published letter of the option that it names."""
        lines = [line.strip() for line in reply.strip().split("\n") if line.strip()]
        if len(lines) != len(item.questions):
            return Misread(f"{len(lines)} lines for {len(item.questions)} questions")
        letters = (
            _published(item, question, line[0], self.shuffle)
            for question, line in zip(item.questions, lines, strict=True)
        )
        return Parsed(tuple(letters), tuple(lines))

    def summarize(
        self, items: Sequence[BenchmarkItem], judgements: Sequence[Judgement], protocol: ScoreProtocol
    ) -> Summary:
        """Shares by type of question, their means, and the scores of constant answers.

        Officially the shares of types are rounded to 3 decimals before they are averaged.
        """
        known = Judgements.of(items, judgements)
        types: dict[str, dict[str, Counts]] = {}
        for item in known.items:
            for answer in known.answers(item):
                for position, question in enumerate(item.questions):
                    votes = answer.values[position] if answer and position < len(answer.values) else ""
                    right = votes != "" and is_agreed(votes, question.expected)
                    pool(types, question.category, item.id, Counts(float(right), 1) if votes else Counts(missing=1))
        digits = 3 if protocol == "official" else None
        strata = [Stratum(name, shares) for name, shares in types.items()]
        parts = {
            "overall": strata,
            "basic": [each for each in strata if each.name in BASIC],
            "spatial": [each for each in strata if each.name not in BASIC],
        }
        cells = [
            *(Cell(name, tuple(part), table="overall", stratum_digits=digits) for name, part in parts.items() if part),
            *(Cell(each.name, (each,), table="type", stratum_digits=digits) for each in strata),
            *(_constant(known.items, letter, self.shuffle) for letter in LETTERS),
        ]
        return known.summary(self.name, cells)


def combine(rollouts: Sequence[Parsed]) -> tuple[str, ...]:
    """The values of an answer from the replies to the same call: the letters that each question got."""
    return tuple("".join(letters) for letters in zip(*(each.values for each in rollouts), strict=True))


def is_agreed(votes: str, letter: str) -> bool:
    """Whether enough of the answers give a letter: 4 of 5, and the same share of another number."""
    return Counter(votes)[letter] >= math.ceil(AGREEMENT * len(votes))


def order_of(item: str, question: Question) -> tuple[int, ...]:
    """The order in which the options are shown: shuffled by item and question, the last one (None) stays last."""
    seed = int.from_bytes(hashlib.sha256(f"{item}|{question.id}".encode()).digest()[:8])
    last = len(question.options) - 1
    return (*(int(each) for each in np.random.default_rng(seed).permutation(last)), last)


def _shown(item: BenchmarkItem, question: Question, shuffle: bool) -> list[str]:
    """The options as the judge sees them: letters in the published order, texts perhaps in another one."""
    if not shuffle:
        return list(question.options)
    letters = [option[0] for option in question.options]
    texts = [option[3:] for option in question.options]
    return [f"{letter}: {texts[at]}" for letter, at in zip(letters, order_of(item.id, question), strict=True)]


def _published(item: BenchmarkItem, question: Question, letter: str, shuffle: bool) -> str:
    """The published letter of the option that a judge names; other characters stay."""
    letters = [option[0] for option in question.options]
    if not shuffle or letter not in letters:
        return letter
    return letters[order_of(item.id, question)[letters.index(letter)]]


def _constant(items: Sequence[BenchmarkItem], letter: str, shuffle: bool) -> Cell:
    """The share that always answering one letter would get."""
    prompts: dict[str, Counts] = {}
    for item in items:
        right = sum(_published(item, each, letter, shuffle) == each.expected for each in item.questions)
        prompts[item.id] = Counts(right, len(item.questions))
    order = "shuffled options" if shuffle else "published order of the options"
    return Cell(f"always {letter}", (Stratum(letter, prompts),), table="baseline", note=order)


def _file(folder: Path) -> Path:
    name = "SpatialGenEval_T2I_Prompts.jsonl"
    return first_existing(folder, f"eval/{name}", name)


def _item(line: Line, index: int) -> BenchmarkItem:
    texts, answers, types = (strings_of(line, key) for key in ("questions", "answers", "question_type"))
    if not len(texts) == len(answers) == len(types):
        raise UserError(f"{line.place} has {len(texts)} questions, {len(answers)} answers, {len(types)} types: {GET}")
    questions = tuple(
        _question(number, *each, line.place) for number, each in enumerate(zip(texts, answers, types, strict=True))
    )
    name = string_of(line, "id")
    return BenchmarkItem(name, string_of(line, "prompt"), questions, 1, group=string_of(line, "scene"), index=index)


def _question(number: int, text: str, answer: str, kind: str, place: str) -> Question:
    stem, found, rest = text.partition("Options:")
    parts = _OPTION.split(rest)  # before, letter, text, letter, text, …
    options = tuple(f"{letter}: {option.strip()}" for letter, option in zip(parts[1::2], parts[2::2], strict=True))
    if not found or len(options) < 2 or answer not in LETTERS:  # one published answer is the letter of no option
        raise UserError(
            f"{place}, question {number + 1}, must have options and a letter as answer, got {answer!r}: {GET}"
        )
    return Question(str(number), stem.strip(), answer, kind, options=options)
