"""The same review in Label Studio: tasks out, annotations in.

    <run_dir>/label_studio/tasks.json, config.xml, images/     for Label Studio, with local files served from the folder
    <run_dir>/label_studio/annotations.json                    its JSON export, which is read back

A task is one picture, blind: its key says which side of the pair it is to nobody who has not the review's database. An
annotator's two pictures of a pair make one vote, which is saved as the page saves it and counts as much.
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
from conf.settings import Settings
from pipelines.preferences.review.annotation import Annotation, verdict
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.pairs import PRESENCE, SIDES, PairSet, pairs_folder
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.store import REVIEW, AlreadyVotedError, Vote

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
class Imported:
    """What became of annotations."""

    votes: int  # saved now
    known: int  # saved before
    incomplete: int  # an annotator has judged one picture of the pair only, or has not answered everything

    def __str__(self) -> str:
        return f"{self.votes} votes saved, {self.known} were there already, {self.incomplete} are incomplete"


def label_studio_folder(settings: Settings) -> Path:
    """Where files for and from Label Studio lie. Absolute."""
    return Path(settings.review.label_studio or f"{settings.run_dir}/label_studio").absolute()


def export_tasks(settings: Settings) -> Path:
    """Writes every pair that still lacks a review as two tasks, in an order that separates them. Returns tasks.json."""
    folder, pairs = label_studio_folder(settings), PairSet(pairs_folder(settings))
    database = open_database(settings)
    store = open_store(settings, database)
    open_queue(settings, database, store)  # fills the queue
    tasks = []
    for pair_id, status in store.statuses().items():
        if status != "pending":
            continue
        pair = pairs.pair(pair_id)
        claims = [{"text": text} for text in (PRESENCE, *map(" ".join, pair.relations))]
        for side in SIDES:
            key = _key(database, pair_id, side)
            write_file(str(folder / "images" / f"{key}.png"), pairs.image(pair_id, side))
            image = f"/data/local-files/?d=images/{key}.png"
            data = {"pair_id": pair_id, "key": key, "image": image, "prompt": pair.prompt, "claims": claims}
            tasks.append({"data": data})
    database.close()
    tasks.sort(key=lambda task: task["data"]["key"])
    write_file(str(folder / "config.xml"), CONFIG.encode())
    write_file(str(folder / "tasks.json"), json.dumps(tasks, indent=1).encode())
    return folder / "tasks.json"


def import_annotations(settings: Settings) -> Imported:
    """Saves the votes in annotations.json. Reading a file again changes nothing.

    Raises FileNotFoundError without the file, ValueError for a picture that this review did not hand out.
    """
    path = label_studio_folder(settings) / "annotations.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: put Label Studio's export of the project there, in its JSON form")
    pairs, database = PairSet(pairs_folder(settings)), open_database(settings)
    store = open_store(settings, database)
    # (annotator, pair) -> side -> annotation
    given: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    for task in json.loads(path.read_text()):
        pair_id, side = task["data"]["pair_id"], _side(database, pairs, task["data"])
        for annotation in task["annotations"]:
            if not annotation.get("was_cancelled"):
                given[_annotator(annotation), pair_id][side] = annotation
    before, incomplete = len(store.votes()), 0
    for (annotator, pair_id), sides in given.items():
        pair = pairs.pair(pair_id)
        answers = {side: _answers(annotation, pair.claims) for side, annotation in sides.items()}
        if len(answers) < len(SIDES) or not all(map(all, answers.values())):
            incomplete += 1
            continue
        ballot = Annotation(answers["w"], answers["l"])
        ballot.check(pair)
        seconds = sum(float(annotation.get("lead_time") or 0.0) for annotation in sides.values())
        name = f"{annotator}|{pair_id}"
        vote = Vote(name, pair_id, annotator, REVIEW, ballot, verdict(pair, ballot), "w", seconds, _when(sides))
        with suppress(AlreadyVotedError):  # by the page
            store.cast(vote)
    saved = len(store.votes()) - before
    database.close()
    return Imported(saved, len(given) - incomplete - saved, incomplete)


def _key(database: Database, pair_id: str, side: str) -> str:
    return hmac.digest(database.secret, f"label-studio|{pair_id}|{side}".encode(), "sha256").hex()[:24]


def _side(database: Database, pairs: PairSet, data: dict[str, Any]) -> str:
    for side in SIDES:
        if data["pair_id"] in pairs and data["key"] == _key(database, data["pair_id"], side):
            return side
    raise ValueError(f"a task must be one that this review exported, got pair {data['pair_id']!r}, key {data['key']!r}")


def _annotator(annotation: dict[str, Any]) -> str:
    """Label Studio gives a number, or an account, depending on how it exports."""
    who = annotation["completed_by"]
    return f"label-studio-{who['email'] if isinstance(who, dict) else who}"


def _answers(annotation: dict[str, Any], claims: int) -> tuple[str, ...]:
    """One a claim, "" where there is none."""
    chosen = {
        part["from_name"]: part["value"]["choices"][0] for part in annotation["result"] if "choices" in part["value"]
    }
    return tuple(chosen.get(f"answer_{i}", "") for i in range(claims))


def _when(sides: dict[str, dict[str, Any]]) -> float:
    """Seconds since 1970 of the later annotation."""
    return max(datetime.fromisoformat(annotation["created_at"]).timestamp() for annotation in sides.values())
