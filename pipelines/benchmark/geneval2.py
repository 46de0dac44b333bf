"""GenEval 2: questions whose answers count by their probability (arXiv 2512.16853). Code and data are CC BY-NC 4.0.

A judge answers each question in one word. The score of a question is the probability of the right first token.
Soft-TIFA AM is the mean over questions, GM the geometric mean within a prompt: evaluation.py, soft_tifa_analysis.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from conf import UserError
from pipelines.benchmark.items import (
    BenchmarkItem,
    JudgeCall,
    JudgeForm,
    Judgement,
    Part,
    Problem,
    Question,
    ScoreProtocol,
    Source,
    Wording,
)
from pipelines.benchmark.judgements import Judgements
from pipelines.benchmark.published_files import Line, check_file, read_items, string_of, strings_of
from pipelines.benchmark.scores import Cell, Counts, Stratum, Summary, pool
from pipelines.benchmark.wordings import wording_of

FILE = "geneval2_data.jsonl"
SHA256 = "09233adbc9f877fba205f1a20efa4a8640e7e62a91dfd55893562bed8a928e43"
SKILLS = ("object", "attribute", "count", "position", "verb")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
SUFFIX = " Answer in one word."
SOURCE = Source(
    "facebookresearch/GenEval2",
    "a6e82d2289e8d418f27f0adee77908b07060eea3",
    (FILE, "LICENSE"),
    "CC BY-NC 4.0",
    "the licence forbids commercial use",
)
GET = f"download {FILE} of github.com/{SOURCE.repository} at commit {SOURCE.commit[:12]} (CC BY-NC 4.0)"


@dataclass(frozen=True)
class GenEval2:
    """GenEval 2. The published judge is Qwen3-VL-8B-Instruct, one question and one token a call."""

    name: str = "geneval2"
    title: str = "GenEval 2"
    folder: str = "geneval2"
    source: Source = SOURCE
    form: JudgeForm = "logprobs"

    def check(self, folder: Path) -> Sequence[Problem]:
        """What is wrong with the file of prompts."""
        return check_file(folder / FILE, SHA256, GET)

    def load(self, folder: Path, part: Part) -> tuple[BenchmarkItem, ...]:
        """Reads the prompts; spatial: those with a question about position."""
        items = read_items(folder / FILE, GET, _item)
        spatial = (item for item in items if any(question.category == "position" for question in item.questions))
        return items if part == "all" else tuple(spatial)

    def wording(self, folder: Path) -> Wording:
        """The question and the published request for one word."""
        return wording_of((SUFFIX,), "published, evaluation.py")

    def summarize(
        self, items: Sequence[BenchmarkItem], judgements: Sequence[Judgement], protocol: ScoreProtocol
    ) -> Summary:
        """Soft-TIFA by skill (AM), by atomicity (GM) and overall, in per cent. Both protocols count alike."""
        known = Judgements.of(items, judgements)
        skills: dict[str, dict[str, Counts]] = {}
        atoms: dict[str, dict[str, Counts]] = {}
        means: dict[str, dict[str, Counts]] = {}
        for item in known.items:
            for answer in known.answers(item):
                given = answer.probabilities if answer else ()
                padded = [*given, *[math.nan] * len(item.questions)][: len(item.questions)]
                for question, value in zip(item.questions, padded, strict=True):
                    lost = math.isnan(value)
                    pool(skills, question.category, item.id, Counts(missing=1) if lost else Counts(value, 1))
                complete = not any(map(math.isnan, padded))
                whole = Counts(geometric_mean(padded), 1) if complete else Counts(missing=1)
                pool(atoms, item.group, item.id, whole)
                pool(means, "Soft-TIFA GM", item.id, whole)
                arithmetic = Counts(sum(padded) / len(padded), 1) if complete else Counts(missing=1)
                pool(means, "Soft-TIFA AM", item.id, arithmetic)
        tables = (("overall", means), ("skill", skills), ("atomicity", atoms))
        return known.summary(
            self.name,
            [
                Cell(name, (Stratum(name, shares[name]),), table=table, scale="percent")
                for table, shares in tables
                for name in shares
            ],
        )


def ask_one(question: Question) -> JudgeCall:
    """The call of one question: one token, with the probabilities of the likeliest ones."""
    return JudgeCall(
        question.text + SUFFIX,
        image_first=True,
        options={"max_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": 20},
    )


def accepted_tokens(question: Question) -> frozenset[str]:
    """The first tokens that count as the right answer."""
    if not question.text.startswith("How many"):
        return frozenset({"Yes", "yes", " Yes", " yes"})
    answer = question.expected
    digits = str(NUMBERS.index(answer) + 1) if answer in NUMBERS else "other"
    words = (answer, answer.capitalize(), digits)
    return frozenset({*words, *(f" {word}" for word in words)})


def probability(question: Question, logprobs: Mapping[str, float]) -> float:
    """The probability of the right answer. logprobs: token -> natural logarithm of its probability.

    A token that the service does not list counts 0. The official script also counts a lone blank for numbers, as
    Qwen's tokenizer splits " 1"; that is not repeated here.
    """
    return min(sum(math.exp(value) for token, value in logprobs.items() if token in accepted_tokens(question)), 1.0)


def geometric_mean(values: Sequence[float]) -> float:
    """The geometric mean of numbers from 0 to 1; 0 if one of them is 0."""
    if min(values) <= 0:
        return 0.0
    return math.exp(sum(map(math.log, values)) / len(values))


def _item(line: Line, index: int) -> BenchmarkItem:
    asked, skills, atoms = line.values.get("vqa_list"), strings_of(line, "skills"), line.values.get("atom_count")
    pairs = [cast("list[object]", each) for each in cast("list[object]", asked)] if isinstance(asked, list) else []
    if not pairs or len(pairs) != len(skills) or not isinstance(atoms, int):
        raise UserError(f"{line.place} must have a skill for each pair of vqa_list, and atom_count: {GET}")
    questions: list[Question] = []
    for number, (pair, skill) in enumerate(zip(pairs, skills, strict=True)):
        words = [each for each in pair if isinstance(each, str)]
        if len(words) != 2 or len(pair) != 2 or skill not in SKILLS:
            raise UserError(f"{line.place} must have pairs of question and answer, and skills {SKILLS}: {GET}")
        questions.append(Question(str(number), words[0], words[1], skill, row=index))
    return BenchmarkItem(f"{index:05d}", string_of(line, "prompt"), tuple(questions), 1, group=str(atoms), index=index)
