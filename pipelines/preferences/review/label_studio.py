"""The same review in Label Studio: exports tasks and imports annotations.

    <run_dir>/label_studio/tasks.json, config.xml, images/     for Label Studio, which serves the folder as local files
    <run_dir>/label_studio/annotations.json                    the JSON export of Label Studio, which is read back

A task is one image. Its key tells the side of the pair only to a reader of the review's database. The two tasks of one
annotator about a pair make one vote, which counts the same as a vote from the review page.
"""

from __future__ import annotations

import hmac
import json
from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from actors.files import write_file
from actors.folders import claim_names
from actors.json_files import JsonError, parse_json
from conf import UserError
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.preferences.review.annotation import ANSWERS, Annotation, verdict
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.pairs import PRESENCE, SIDES, PairSet, ReviewPair
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import AlreadyVotedError, NotOpenError, Vote
from pipelines.preferences.row_values import Side

CONFIG = """<View>
  <Image name="image" value="$image" zoom="true"/>
  <Text name="prompt" value="$prompt"/>
  <Repeater on="$claims" indexFlag="{{idx}}">
    <Text name="claim_{{idx}}" value="$claims[{{idx}}].text"/>
    <Choices name="answer_{{idx}}" toName="claim_{{idx}}" choice="single" showInline="true" required="true">
      <Choice value="yes"/><Choice value="no"/><Choice value="unsure"/>
    </Choices>
  </Repeater>
</View>
"""


@dataclass(frozen=True)
class ImageAnswers:
    """One annotator's answers about one image, from one annotation of one task."""

    answers: tuple[str, ...]  # one for each claim, "" if it is missing
    seconds: float
    cast_at: float  # seconds since 1970


@dataclass(frozen=True)
class ImportResult:
    """Numbers of annotations, by pair and annotator."""

    saved: int  # as new votes
    known: int  # the annotator's vote on the pair was saved before
    late: int  # the pair was decided without them
    incomplete: int  # only one image was judged, or answers are missing

    def __str__(self) -> str:
        late = f", {self.late} on pairs that were decided already" if self.late else ""
        return f"{self.saved} votes saved, {self.known} known already, {self.incomplete} incomplete{late}"


def label_studio_folder(settings: Settings) -> Path:
    """The absolute folder of files for and from Label Studio."""
    folder = settings.review.label_studio
    return Path(folder).absolute() if folder else run_paths(settings).label_studio


def export_tasks(settings: Settings) -> Path:
    """Writes two tasks, in random order, for every pair that still lacks a review. Returns the path of tasks.json.

    Raises UserError if the run has no pairs.
    """
    folder, pairs = label_studio_folder(settings), PairSet(run_paths(settings).preferences)
    if settings.review.label_studio:  # else it is a folder of the run
        claim_names(folder, "label_studio", ("tasks.json", "config.xml", "images"))
    tasks: list[dict[str, Any]] = []
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        open_queue(settings, database, store)  # fills the queue
        for pair_id, status in store.statuses().items():
            if status != "pending":
                continue
            pair = pairs.pair(pair_id)
            claims = [{"text": text} for text in (PRESENCE, *map(" ".join, pair.relations))]
            for side in SIDES:
                key = _task_key(database, pair_id, side)
                write_file(str(folder / "images" / f"{key}.png"), pairs.image(pair_id, side))
                image = f"/data/local-files/?d=images/{key}.png"
                data = {"pair_id": pair_id, "key": key, "image": image, "prompt": pair.prompt, "claims": claims}
                tasks.append({"data": data})
    tasks.sort(key=lambda task: task["data"]["key"])  # separates the two images of a pair
    write_file(str(folder / "config.xml"), CONFIG.encode())
    write_file(str(folder / "tasks.json"), json.dumps(tasks, indent=1).encode())
    return folder / "tasks.json"


def import_annotations(settings: Settings) -> ImportResult:
    """Saves the annotations in annotations.json as votes. Importing a file again changes nothing.

    Raises UserError, and saves nothing, if the file is missing, is no export of Label Studio, or holds a task that this
    review did not export.
    """
    path = label_studio_folder(settings) / "annotations.json"
    if not path.exists():
        raise UserError(f"no {path}: export the Label Studio project as JSON and save it there")
    pairs, counts = PairSet(run_paths(settings).preferences), {"saved": 0, "known": 0, "late": 0, "incomplete": 0}
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        annotations = _read_annotations(path, database, pairs)
        known = {(vote.annotator, vote.pair_id) for vote in store.votes()}
        for (annotator, pair_id), by_side in annotations.items():
            if len(by_side) < len(SIDES) or not all(all(one.answers) for one in by_side.values()):
                counts["incomplete"] += 1
            elif (annotator, pair_id) in known:
                counts["known"] += 1
            else:
                counts["saved" if _save(store, annotator, pairs.pair(pair_id), by_side) else "late"] += 1
    return ImportResult(**counts)


def _save(store: Store, annotator: str, pair: ReviewPair, by_side: dict[Side, ImageAnswers]) -> bool:
    """Saves a vote. Returns whether the pair needed it."""
    annotation = Annotation(by_side["w"].answers, by_side["l"].answers)
    vote = Vote(
        vote_id=f"{annotator}|{pair.pair_id}",
        pair_id=pair.pair_id,
        annotator=annotator,
        stage="review",
        annotation=annotation,
        verdict=verdict(pair, annotation),
        first_side="w",
        seconds=sum(one.seconds for one in by_side.values()),
        cast_at=max(one.cast_at for one in by_side.values()),
    )
    try:
        store.cast(vote, needs_lease=False)
    except (AlreadyVotedError, NotOpenError):
        return False
    return True


def _read_annotations(
    path: Path, database: Database, pairs: PairSet
) -> dict[tuple[str, str], dict[Side, ImageAnswers]]:
    """(annotator, pair id) -> side -> answers. Raises UserError for a task that Label Studio did not write."""
    found: dict[tuple[str, str], dict[Side, ImageAnswers]] = defaultdict(dict)
    try:
        tasks = parse_json(path.read_bytes())
        if not isinstance(tasks, list):
            raise JsonError("it must be a list of tasks")
    except (JsonError, OSError) as error:
        raise UserError(
            f"{path} must be a JSON export of Label Studio, got: {error}: export the project again"
        ) from error
    for number, task in enumerate(tasks, start=1):
        try:
            pair_id, side = str(task["data"]["pair_id"]), _side(database, pairs, task["data"])
            for annotation in task["annotations"]:
                if not annotation.get("was_cancelled"):
                    answers = _image_answers(annotation, pairs.pair(pair_id).claims)
                    found[_annotator(annotation), pair_id][side] = answers
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(
                f"task {number} of {path} must be as Label Studio exports it, got {type(error).__name__}: {error}: "
                "export the project again, as JSON and not as JSON-MIN"
            ) from error
    return found


def _image_answers(annotation: dict[str, Any], claims: int) -> ImageAnswers:
    """The answers of one annotation. Raises ValueError, KeyError or TypeError if it is not one of our tasks."""
    chosen = {
        part["from_name"]: part["value"]["choices"][0] for part in annotation["result"] if "choices" in part["value"]
    }
    answers = tuple(chosen.get(f"answer_{i}", "") for i in range(claims))
    if wrong := [answer for answer in answers if answer not in ("", *ANSWERS)]:
        raise ValueError(f"an answer must be one of {', '.join(ANSWERS)}, got {wrong[0]!r}")
    return ImageAnswers(
        answers,
        seconds=max(0.0, float(annotation.get("lead_time") or 0.0)),
        cast_at=datetime.fromisoformat(annotation["created_at"]).timestamp(),
    )


def _task_key(database: Database, pair_id: str, side: Side) -> str:
    return hmac.digest(database.secret, f"label-studio|{pair_id}|{side}".encode(), "sha256").hex()[:24]


def _side(database: Database, pairs: PairSet, data: dict[str, Any]) -> Side:
    for side in SIDES:
        if data["pair_id"] in pairs and data["key"] == _task_key(database, data["pair_id"], side):
            return side
    raise UserError(
        f"a task must be one that this review exported, got pair {data['pair_id']!r} with key {data['key']!r}: import "
        "the project that was made from this run's tasks.json"
    )


def _annotator(annotation: dict[str, Any]) -> str:
    """The annotator's name. Depending on the export, Label Studio gives a number or an account."""
    account = annotation["completed_by"]
    return f"label-studio-{account['email'] if isinstance(account, dict) else account}"
