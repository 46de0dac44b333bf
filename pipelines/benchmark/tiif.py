"""TIIF-Bench: short and long prompts of 39 types with yes-or-no questions (Wei et al., arXiv 2506.02161).

The published judge is a vision-language model that answers all questions of an image in one call. Its repository names
no licence, so the files and the wording of the call are read from the user's clone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

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
from pipelines.benchmark.published_files import (
    Line,
    compare,
    first_existing,
    read_lines,
    sha256_of,
    string_of,
    strings_of,
)
from pipelines.benchmark.scores import Summary
from pipelines.benchmark.tiif_scores import GROUPS, SPATIAL_GROUPS, cells
from pipelines.benchmark.wordings import choose, constants_of, system_line, wording_of
from pipelines.benchmark.yes_no import OWN_TEMPLATE, ask_all, parse_lines

TiifSet = Literal["testmini", "test"]
"""testmini: 277 prompts; test: 2,538. Each has a short and a long wording."""

LENGTHS: tuple[Literal["short", "long"], ...] = ("short", "long")
PLACEHOLDER = "##YNQuestions##"
TEMPLATES = ("raw_prompt", "raw_prompt_1", "raw_prompt_2")
SCRIPT = "eval/eval_with_vlm.py"
SHA256 = {
    "test_prompts": "90e2a0dba23b88cc3a174e0ccef1a51d687d8a885a8d8cf527d7c0f66b553313",
    "test_eval_prompts": "e3d3b14862baaa7e711d633d1e24d217bac34335495418580557989ffb50304a",
    "testmini_prompts": "eca36f7c68301ee76f85a534966162726e49c5f11f22a0a4cdbba371f291ed75",
    "testmini_eval_prompts": "467b543f36cbe811cfef85f2a0d988739705dfaba04b1e0b1a09be81e8b416ab",
}
"""Of the files of a folder, joined in the order of their names' bytes."""
SOURCE = Source(
    "A113N-W3I/TIIF-Bench",
    "3aae7504d2546516eaec2fea82fde9ae445dfea3",
    (*(f"data/{name}/" for name in SHA256), SCRIPT),
    "none named",
    "the repository names no licence: ask its authors before you share its prompts or questions",
)
COMPARISON_NOTE = (
    "about 47 of the 75 rows of the type comparison carry the questions of another prompt; it counts in Basic_Reasoning"
)
GET = SOURCE.how_to_get


@dataclass(frozen=True)
class Tiif:
    """TIIF-Bench, one of its two sets of prompts. Image i of a type shows row i of its files."""

    subset: TiifSet = "testmini"
    name: str = "tiif"
    title: str = "TIIF-Bench"
    folder: str = "tiif"
    source: Source = SOURCE
    form: JudgeForm = "chat"

    def check(self, folder: Path) -> Sequence[Problem]:
        """What is wrong with the files of this set."""
        problems: list[Problem] = []
        for name in self._folders():
            files = _files(folder, name)
            if not files:
                problems.append(Problem(f"{_place(folder, name)} has no .jsonl files: {GET}", fatal=True))
            else:
                problems += compare(
                    _place(folder, name), SHA256[name], sha256_of(files), "SHA-256 of the files, joined,"
                )
        return problems

    def load(self, folder: Path, part: Part) -> tuple[BenchmarkItem, ...]:
        """Reads the prompts, types in the order of their names; two items for each, one of each length."""
        prompts, questions = self._folders()
        asked = {_type_of(lines): lines for lines in _tables(folder, questions)}
        types = {_type_of(lines): lines for lines in _tables(folder, prompts)}
        if not types:
            raise UserError(f"{_place(folder, prompts)} has no .jsonl files: {GET}")
        if absent := types.keys() - asked.keys():
            raise UserError(f"{_place(folder, questions)} has no questions of {min(absent)}: {GET}")
        spatial = {name for group in SPATIAL_GROUPS for name in GROUPS[group]}
        chosen = {name: lines for name, lines in types.items() if part == "all" or name in spatial}
        return tuple(item for name in sorted(chosen) for item in _items(name, chosen[name], asked[name]))

    def wording(self, folder: Path) -> Wording:
        """The three published wordings, if the authors' script lies in the clone; else one of ours."""
        constants = constants_of(folder / SCRIPT)
        published = [constants.get(name) for name in TEMPLATES]
        templates = tuple(text for text in published if isinstance(text, str) and PLACEHOLDER in text)
        if len(templates) == len(TEMPLATES):
            return wording_of(templates, f"published, {SCRIPT}", system_line(folder / SCRIPT))
        return wording_of((OWN_TEMPLATE,), f"of this project, as {SCRIPT} is not in the folder of TIIF-Bench")

    def ask(self, item: BenchmarkItem, image: int, attempt: int, wording: Wording) -> JudgeCall:
        """All questions in one call, in one of the wordings, at temperature 1 as the official script does."""
        template = choose(wording, item.id, image, attempt).replace(PLACEHOLDER, "{questions}")
        return ask_all(item.questions, template, wording.system, {"temperature": 1.0})

    def parse(self, item: BenchmarkItem, reply: str) -> Parsed | Misread:
        """One line an answer."""
        return parse_lines(reply, len(item.questions))

    def summarize(
        self, items: Sequence[BenchmarkItem], judgements: Sequence[Judgement], protocol: ScoreProtocol
    ) -> Summary:
        """Shares by type and by group, for short and for long prompts."""
        known = Judgements.of(items, judgements)
        return known.summary(self.name, cells(known, protocol), notes=_notes(items, self.subset))

    def _folders(self) -> tuple[str, str]:
        return f"{self.subset}_prompts", f"{self.subset}_eval_prompts"


def _notes(items: Sequence[BenchmarkItem], subset: TiifSet) -> list[str]:
    """What is known to be wrong with the published questions of the items."""
    shifted = subset == "test" and any(item.group == "comparison" for item in items)
    return [COMPARISON_NOTE] if shifted else []


def _place(folder: Path, name: str) -> Path:
    return first_existing(folder, f"data/{name}", name)


def _files(folder: Path, name: str) -> list[Path]:
    return sorted(_place(folder, name).glob("*.jsonl"), key=lambda path: path.name.encode())


def _tables(folder: Path, name: str) -> list[list[Line]]:
    tables = [list(read_lines(path, GET)) for path in _files(folder, name)]
    return [lines for lines in tables if lines]


def _type_of(lines: Sequence[Line]) -> str:
    """The type of a file is that of its first row, as in the official script."""
    return string_of(lines[0], "type")


def _items(name: str, prompts: Sequence[Line], asked: Sequence[Line]) -> list[BenchmarkItem]:
    """Row i of the prompts has the questions of row i."""
    if len(prompts) != len(asked):
        raise UserError(f"{name} has {len(prompts)} prompts, but questions of {len(asked)}: {GET}")
    return [
        BenchmarkItem(
            f"{name}-{length}-{index}",
            string_of(prompt, f"{length}_description"),
            _questions(line),
            1,
            group=name,
            length=length,
            index=index,
        )
        for length in LENGTHS
        for index, (prompt, line) in enumerate(zip(prompts, asked, strict=True))
    ]


def _questions(line: Line) -> tuple[Question, ...]:
    texts, answers = strings_of(line, "yn_question_list"), strings_of(line, "yn_answer_list")
    if len(texts) != len(answers):
        raise UserError(f"{line.place} has {len(texts)} questions, but {len(answers)} answers: {GET}")
    return tuple(
        Question(str(number), text, answer) for number, (text, answer) in enumerate(zip(texts, answers, strict=True))
    )
