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
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from actors.files import write_file
from conf import UserError
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.preferences.review.annotation import Annotation, verdict
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.pairs import PRESENCE, SIDES, PairSet, ReviewPair
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.votes import AlreadyVotedError, Vote
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

TaskAnnotation = dict[str, Any]
"""An annotation of one task, as Label Studio exports it."""


@dataclass(frozen=True)
class ImportResult:
    """Numbers of annotations, by pair and annotator."""

    saved: int  # as new votes
    known: int  # saved before
    incomplete: int  # only one image was judged, or answers are missing

    def __str__(self) -> str:
        return f"{self.saved} votes saved, {self.known} known already, {self.incomplete} incomplete"


def label_studio_folder(settings: Settings) -> Path:
    """The absolute folder of files for and from Label Studio."""
    folder = settings.review.label_studio
    return Path(folder).absolute() if folder else run_paths(settings).label_studio


def export_tasks(settings: Settings) -> Path:
    """Writes two tasks, in random order, for every pair that still lacks a review. Returns the path of tasks.json.

    Raises UserError if the run has no pairs.
    """
    folder, pairs = label_studio_folder(settings), PairSet(run_paths(settings).preferences)
    database = open_database(settings)
    store = open_store(settings, database)
    open_queue(settings, database, store)  # fills the queue
    tasks: list[dict[str, Any]] = []
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
    database.close()
    tasks.sort(key=lambda task: task["data"]["key"])  # separates the two images of a pair
    write_file(str(folder / "config.xml"), CONFIG.encode())
    write_file(str(folder / "tasks.json"), json.dumps(tasks, indent=1).encode())
    return folder / "tasks.json"


def import_annotations(settings: Settings) -> ImportResult:
    """Saves the annotations in annotations.json as votes. Importing a file again changes nothing.

    Raises UserError if the file is missing or holds a task that this review did not export.
    """
    path = label_studio_folder(settings) / "annotations.json"
    if not path.exists():
        raise UserError(f"no {path}: export the Label Studio project as JSON and save it there")
    pairs, database = PairSet(run_paths(settings).preferences), open_database(settings)
    store = open_store(settings, database)
    before, incomplete = len(store.votes()), 0
    annotations = _read_annotations(path, database, pairs)
    for (annotator, pair_id), by_side in annotations.items():
        vote = _vote(annotator, pairs.pair(pair_id), by_side)
        if vote is None:
            incomplete += 1
            continue
        with suppress(AlreadyVotedError):  # the annotator voted on the review page
            store.cast(vote)
    saved = len(store.votes()) - before
    database.close()
    return ImportResult(saved, len(annotations) - incomplete - saved, incomplete)


def _read_annotations(
    path: Path, database: Database, pairs: PairSet
) -> dict[tuple[str, str], dict[Side, TaskAnnotation]]:
    """(annotator, pair id) -> side -> annotation."""
    found: dict[tuple[str, str], dict[Side, TaskAnnotation]] = defaultdict(dict)
    for task in json.loads(path.read_text()):
        pair_id, side = task["data"]["pair_id"], _side(database, pairs, task["data"])
        for annotation in task["annotations"]:
            if not annotation.get("was_cancelled"):
                found[_annotator(annotation), pair_id][side] = annotation
    return found


def _vote(annotator: str, pair: ReviewPair, by_side: dict[Side, TaskAnnotation]) -> Vote | None:
    """The vote of an annotator on a pair; None if an answer is missing."""
    answers = {side: _answers(annotation, pair.claims) for side, annotation in by_side.items()}
    if len(answers) < len(SIDES) or not all(map(all, answers.values())):
        return None
    annotation = Annotation(answers["w"], answers["l"])
    annotation.check(pair)
    return Vote(
        vote_id=f"{annotator}|{pair.pair_id}",
        pair_id=pair.pair_id,
        annotator=annotator,
        stage="review",
        annotation=annotation,
        verdict=verdict(pair, annotation),
        first_side="w",
        seconds=sum(float(one.get("lead_time") or 0.0) for one in by_side.values()),
        cast_at=max(datetime.fromisoformat(one["created_at"]).timestamp() for one in by_side.values()),
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


def _annotator(annotation: TaskAnnotation) -> str:
    """The annotator's name. Depending on the export, Label Studio gives a number or an account."""
    account = annotation["completed_by"]
    return f"label-studio-{account['email'] if isinstance(account, dict) else account}"


def _answers(annotation: TaskAnnotation, claims: int) -> tuple[str, ...]:
    """One answer for each claim, "" if it is missing."""
    chosen = {
        part["from_name"]: part["value"]["choices"][0] for part in annotation["result"] if "choices" in part["value"]
    }
    return tuple(chosen.get(f"answer_{i}", "") for i in range(claims))
