"""The records of a benchmark: items, questions, judgements, and what every benchmark provides.

Each benchmark reads the files that its authors publish (`Benchmark.load`). A judge answers the questions of an image;
its answers are rows (`Answer`, or `Unreadable` with the reason). `Benchmark.summarize` turns rows into a `Summary`
(`scores.py`). Nothing here imports torch or Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from pipelines.benchmark.scores import Summary

ScoreProtocol = Literal["official", "fixed"]
"""official: as the authors' scripts count, with their errors; fixed: without these errors, missing answers counted."""

Part = Literal["spatial", "all"]
"""spatial: only the items behind the cells about spatial relations; all: the whole benchmark."""

JudgeForm = Literal["chat", "vqa", "detector", "logprobs"]
"""Who answers. chat: a vision-language model answers all questions of an image in one call (`ChatBenchmark`).
vqa: a model answers one question (`Question.text`) a call with one word. detector: boxes decide (`geneval.py`).
logprobs: a chat model answers one question a call, and the probability of the first token counts (`geneval2.py`).
"""

Failure = Literal["no image", "malformed", "refused", "cut", "call failed"]
"""Why there is no answer. cut: the reply ended at the limit of tokens. call failed: the service gave no reply."""


@dataclass(frozen=True)
class Question:
    """One question about an image. Benchmarks without questions (GenEval) have one for the whole prompt."""

    id: str  # unique within an item, except for DPG's repeated propositions
    text: str  # what a judge is asked; for UniGenBench++ the description of the test point
    expected: str  # the right answer: "yes", "no", "1", a letter; "" if a detector decides
    category: str = ""  # e.g. "relation - spatial" of DPG, or the test point of UniGenBench++
    parents: tuple[str, ...] = ()  # ids of the questions that this one depends on
    row: int = 0  # number of its row in the published file, from 0
    options: tuple[str, ...] = ()  # of a multiple-choice question, in the published order


@dataclass(frozen=True)
class BenchmarkItem:
    """One prompt with its questions. `id` is unique in the benchmark and valid as a file name."""

    id: str
    prompt: str
    questions: tuple[Question, ...]
    images: int  # per prompt
    group: str = ""  # type of TIIF-Bench, tag of GenEval; "" if the benchmark has no groups
    length: str = ""  # "short" or "long" where a benchmark has both wordings of a prompt
    index: int = 0  # number of the prompt in its file; official file names are made from it
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])  # e.g. the line of GenEval's file


@dataclass(frozen=True)
class Answer:
    """The answers of one judge about one image."""

    item: str  # BenchmarkItem.id
    image: int  # 0 <= image < BenchmarkItem.images
    values: tuple[str, ...]  # per question, as the judge gave them; "" if this one question has no answer
    notes: tuple[str, ...] = ()  # the judge's reasons, where the form has them
    probabilities: tuple[float, ...] = ()  # per question, where the form is "logprobs": of the expected answer
    officially_lost: bool = False  # the official scripts parse this answer, but cannot read it from their own file
    raw: str = ""  # the reply
    attempts: int = 1


@dataclass(frozen=True)
class Unreadable:
    """A judgement that is missing, with the reason."""

    item: str
    image: int
    why: Failure
    detail: str = ""
    raw: str = ""
    attempts: int = 1


Judgement = Answer | Unreadable


def without_image(item: BenchmarkItem, image: int, error: object = "") -> Unreadable:
    """The judgement of an image whose file does not exist, or cannot be decoded, with the `error`."""
    return Unreadable(item.id, image, "no image", f"the file is damaged: {error}" if error else "")


@dataclass(frozen=True)
class Parsed:
    """A reply that could be read."""

    values: tuple[str, ...]
    notes: tuple[str, ...] = ()
    officially_lost: bool = False


@dataclass(frozen=True)
class Misread:
    """A reply that could not be read."""

    reason: str
    official_crash: str = ""  # the exception with which the official script ends at this reply; "" if it goes on


@dataclass(frozen=True)
class Wording:
    """The text around the questions, as published or ours, with its origin for the manifest."""

    templates: tuple[str, ...]  # one is chosen by item, image and attempt
    origin: str  # in words, e.g. "published, eval/eval_with_vlm.py" or "of this project"
    sha256: str
    system: str = ""
    definitions: Mapping[str, str] = field(default_factory=dict[str, str])  # per test point


@dataclass(frozen=True)
class JudgeCall:
    """What a chat judge is asked about one image: a system line ("" for none), and one user turn."""

    text: str
    system: str = ""
    image_first: bool = False
    options: Mapping[str, float | int] = field(default_factory=dict[str, float | int])  # e.g. temperature, max_tokens


@dataclass(frozen=True)
class Source:
    """A public repository that a benchmark is published in."""

    repository: str  # owner/name on GitHub
    commit: str
    paths: tuple[str, ...]  # files and folders in it that are needed; "name/" is a folder
    licence: str
    warning: str = ""  # what a user must know about the licence; "" if it permits use and sharing

    @property
    def how_to_get(self) -> str:
        """The end of a message about files that are missing."""
        return (
            f"clone github.com/{self.repository} at commit {self.commit[:12]} into this folder, or run "
            "`spatialt2i benchmark fetch`"
        )


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a benchmark's folder, and what to do about it."""

    text: str
    fatal: bool  # the benchmark cannot be loaded; otherwise it loads, but is not the published one


class Benchmark(Protocol):
    """What a benchmark provides. `catalogue.find_benchmark` returns one by its name."""

    @property
    def name(self) -> str:
        """Name in settings and folders, e.g. "tiif"."""
        ...

    @property
    def title(self) -> str:
        """Name in tables, e.g. "TIIF-Bench"."""
        ...

    @property
    def folder(self) -> str:
        """Name of its folder below `benchmark.data`; the two parts of UniGenBench++ share one."""
        ...

    @property
    def source(self) -> Source:
        """Where it is published."""
        ...

    @property
    def form(self) -> JudgeForm:
        """Who answers in the published protocol."""
        ...

    def check(self, folder: Path) -> Sequence[Problem]:
        """What is wrong with the published files in `folder`; empty if they are complete and unchanged."""
        ...

    def load(self, folder: Path, part: Part) -> tuple[BenchmarkItem, ...]:
        """Reads the published files. Raises UserError that names file, line and fix."""
        ...

    def wording(self, folder: Path) -> Wording:
        """The text of a judge's call: read from the published code in `folder` where it lies there, else ours."""
        ...

    def summarize(
        self, items: Sequence[BenchmarkItem], judgements: Sequence[Judgement], protocol: ScoreProtocol
    ) -> Summary:
        """Scores one side. An image without a judgement counts as missing; of two judgements the last counts."""
        ...


@runtime_checkable
class ChatBenchmark(Benchmark, Protocol):
    """A benchmark whose questions about an image a chat judge answers in one call."""

    def ask(self, item: BenchmarkItem, image: int, attempt: int, wording: Wording) -> JudgeCall:
        """The call of a chat judge about an image."""
        ...

    def parse(self, item: BenchmarkItem, reply: str) -> Parsed | Misread:
        """Reads the reply of a chat judge by the rules of the official script."""
        ...
