"""DPG-Bench: long prompts with questions in dependency trees (Hu et al., ELLA, arXiv 2403.05135).

The published judge is mPLUG, one question a call. `official` follows dpg_bench/compute_dpg_bench.py of the authors in
one process; `fixed` counts all images in the categories, reads answers whatever their case, and lists missing answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conf import UserError
from pipelines.benchmark.dpg_scores import fixed_cells, official_scores
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
    compare,
    first_existing,
    git_blob,
    read_csv,
    read_lines,
    read_text,
    string_of,
)
from pipelines.benchmark.scores import Summary
from pipelines.benchmark.wordings import wording_of
from pipelines.benchmark.yes_no import OWN_TEMPLATE, ask_all, parse_lines

IMAGES = 4
COLUMNS = (
    "item_id", "text", "keywords", "proposition_id", "dependency", "category_broad", "category_detailed", "tuple",
    "question_natural_language",
)  # fmt: skip
CSV_BLOB = "98457fc9901943f51ff9a30367250fc292533bed"
SOURCE = Source(
    "TencentQQGYLab/ELLA",
    "3c228f1dc6c4d3cad0a47493816151a419f14db3",
    ("dpg_bench/dpg_bench.csv", "dpg_bench/prompts/", "LICENSE"),
    "Apache-2.0",
)
OFFICIAL_NOTE = (
    "the official script in one process; in several, as its launcher starts it, it mixes up the categories (ELLA issue "
    "56), so published categories may not be what their names say"
)
GET = (
    f"download dpg_bench/dpg_bench.csv and dpg_bench/prompts of github.com/{SOURCE.repository} at commit "
    f"{SOURCE.commit[:12]}, or run `spatialt2i benchmark fetch`"
)


@dataclass(frozen=True)
class Dpg:
    """DPG-Bench. An item has a grid of four images in the official layout."""

    name: str = "dpg"
    title: str = "DPG-Bench"
    folder: str = "dpg"
    source: Source = SOURCE
    form: JudgeForm = "vqa"

    def check(self, folder: Path) -> Sequence[Problem]:
        """What is wrong with dpg_bench.csv."""
        path = csv_file(folder)
        if not path.is_file():
            return [Problem(f"{path} is missing: {GET}", fatal=True)]
        problems = compare(path, CSV_BLOB, git_blob(path), "git blob id")
        rows = read_csv(path, COLUMNS, GET)
        if rows and all(row["dependency"].strip().isdigit() for row in rows):
            problems.append(Problem(f"{path} has single numbers only as dependency: the official script fails", False))
        if rows and all(row["item_id"].strip().isdigit() for row in rows):
            problems.append(Problem(f"{path} has numbers only as item_id: the official script finds no image", False))
        return problems

    def load(self, folder: Path, part: Part) -> tuple[BenchmarkItem, ...]:
        """Reads all items, in the order of the file; `part` makes no difference, as every item counts in the score."""
        path = csv_file(folder)
        questions: dict[str, list[Question]] = {}
        texts: dict[str, str] = {}
        rows = read_csv(path, COLUMNS, GET)
        later = {row["item_id"] for row in rows[1:]}
        for number, row in enumerate(rows):
            if row["item_id"] not in later:  # the first row, which the official script skips, is no question
                continue
            questions.setdefault(row["item_id"], []).append(_question(row, number, f"{path}, row {number}"))
            texts.setdefault(row["item_id"], row["text"])
        if not questions:
            raise UserError(f"{path} has no rows: {GET}")
        published = _prompts(folder)
        return tuple(
            BenchmarkItem(name, published.get(name) or texts[name], tuple(asked), IMAGES, index=index)
            for index, (name, asked) in enumerate(questions.items())
        )

    def wording(self, folder: Path) -> Wording:
        """Ours, for a chat judge: the published judge gets the question alone."""
        return wording_of((OWN_TEMPLATE,), "of this project; DPG-Bench publishes none for chat judges")

    def ask(self, item: BenchmarkItem, image: int, attempt: int, wording: Wording) -> JudgeCall:
        """All questions in one call. Its scores are on another scale than those of mPLUG."""
        return ask_all(item.questions, wording.templates[0], wording.system, {"temperature": 0.0})

    def parse(self, item: BenchmarkItem, reply: str) -> Parsed | Misread:
        """One line an answer."""
        return parse_lines(reply, len(item.questions))

    def summarize(
        self, items: Sequence[BenchmarkItem], judgements: Sequence[Judgement], protocol: ScoreProtocol
    ) -> Summary:
        """Overall score and categories, in per cent."""
        known = Judgements.of(items, judgements)
        if protocol == "fixed":
            return known.summary(self.name, fixed_cells(known))
        scores = official_scores(known)
        return known.summary(self.name, scores.cells, scores.lost, [OFFICIAL_NOTE])


def csv_file(folder: Path) -> Path:
    """The file of questions, in a folder of its own or in a clone of the repository."""
    return first_existing(folder, "dpg_bench.csv", "dpg_bench/dpg_bench.csv")


def _prompts(folder: Path) -> dict[str, str]:
    """item_id -> prompt from the published text files or from prompts.jsonl; {} if there is neither."""
    files = first_existing(folder, "prompts", "dpg_bench/prompts")
    if files.is_dir():
        return {path.stem: read_text(path, GET) for path in sorted(files.glob("*.txt"))}
    path = folder / "prompts.jsonl"
    if not path.is_file():
        return {}
    return {string_of(line, "item_id"): string_of(line, "text") for line in read_lines(path, GET)}


def _question(row: dict[str, str], number: int, place: str) -> Question:
    try:
        name = str(int(row["proposition_id"]))
        parents = tuple(str(int(each)) for each in row["dependency"].split(",")) if row["dependency"].strip() else ()
    except ValueError as error:
        found = f"{row['proposition_id']!r} and {row['dependency']!r}"
        raise UserError(
            f"{place}: proposition_id must be a number and dependency numbers with commas, got {found}: {GET}"
        ) from error
    category = row["tuple"].split("(")[0].strip() or f"{row['category_broad']} - {row['category_detailed']}"
    return Question(
        name,
        row["question_natural_language"],
        "yes",
        category,
        tuple(parent for parent in parents if parent != "0"),
        number,
    )
