"""The same review in Label Studio: exports tasks and imports annotations.

    <run_dir>/label_studio/tasks-0001.json, config.xml, images/   for Label Studio, which serves them as local files
    <run_dir>/label_studio/annotations*.json                      JSON exports of Label Studio, which are read back

A task is one pair, so that each annotation is one vote, which counts the same as a vote from the review page. Which
image comes first is random, and only the secret of the review's database tells it.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from actors.files import write_file
from actors.folders import claim_names
from actors.json_files import JsonError, parse_json
from conf import UserError
from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.preferences.claims import Answer
from pipelines.preferences.review.annotation import MAX_NOTE, Annotation, Asked, verdict
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.pairs import SIDES, PairSet
from pipelines.preferences.review.serve import open_database, open_queue, open_store
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.votes import AlreadyVotedError, NotOpenError, Vote
from pipelines.preferences.row_values import Side

_IMAGE_COLUMN = """    <View style="flex: 1; min-width: 0">
      <Image name="image_{order}" value="${order}" zoom="true"/>
      <Repeater on="$claims" indexFlag="{{{{idx}}}}">
        <Text name="{order}_claim_{{{{idx}}}}" value="$claims[{{{{idx}}}}].text"/>
        <Choices name="{order}_{{{{idx}}}}" toName="{order}_claim_{{{{idx}}}}" choice="single" showInline="true">
          <Choice value="yes"/><Choice value="no"/><Choice value="unsure"/>
        </Choices>
      </Repeater>
    </View>
"""
CONFIG = f"""<View>
  <Text name="prompt" value="$prompt"/>
  <View style="display: flex; gap: 2em; align-items: flex-start">
{_IMAGE_COLUMN.format(order="first")}{_IMAGE_COLUMN.format(order="second")}  </View>
  <Choices name="problem" toName="prompt" choice="multiple" showInline="true">
    <Choice value="bad prompt"/>
  </Choices>
  <TextArea name="note" toName="prompt" placeholder="Note" maxSubmissions="1"/>
</View>
"""
_SUFFIXES = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpg", b"RIFF": "webp"}


@dataclass(frozen=True)
class ImportResult:
    """Numbers of annotations."""

    saved: int  # as new votes
    known: int  # the annotator's vote on the pair was saved before
    late: int  # the pair was decided without them
    incomplete: int  # answers are missing

    def __str__(self) -> str:
        late = f", {self.late} on pairs that were decided already" if self.late else ""
        return f"{self.saved} votes saved, {self.known} known already, {self.incomplete} incomplete{late}"


def label_studio_folder(settings: Settings) -> Path:
    """The absolute folder of files for and from Label Studio."""
    folder = settings.review.label_studio
    return Path(folder).absolute() if folder else run_paths(settings).label_studio


def export_tasks(settings: Settings) -> Path:
    """Writes a slice: one task for each pair that still lacks votes and is in no earlier slice. Returns its path.

    `review.label_studio_pairs` is the size of a slice. Raises UserError if the run has no pairs, or none is left.
    """
    folder, pairs = label_studio_folder(settings), PairSet(run_paths(settings).preferences)
    if settings.review.label_studio:  # else it is a folder of the run
        claim_names(folder, "label_studio", ("config.xml", "images", *(path.name for path in folder.glob("tasks-*"))))
    earlier = sorted(folder.glob("tasks-*.json"))
    exported = {task["data"]["pair_id"] for path in earlier for task in _read_tasks(path)}
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        open_queue(settings, database, store)  # fills the queue
        waiting = [pair_id for pair_id in store.waiting() if pair_id not in exported]
        chosen = waiting[: settings.review.label_studio_pairs or None]
        if not chosen:
            raise UserError(
                f"no pair without votes is left that is in none of the {len(earlier)} slices in {folder}: import the "
                "annotations, or delete a slice's file to export its pairs again"
            )
        tasks = [{"data": _task_data(database, pairs, pair_id, folder)} for pair_id in chosen]
    write_file(str(folder / "config.xml"), CONFIG.encode())
    path = folder / f"tasks-{len(earlier) + 1:04d}.json"
    write_file(str(path), json.dumps(tasks, indent=1).encode())
    return path


def import_annotations(settings: Settings) -> ImportResult:
    """Saves the annotations in annotations*.json as votes. Importing a file again changes nothing.

    Raises UserError, and saves nothing, if there is no file, or one of them is no export of Label Studio, or holds a
    task that this review did not export.
    """
    folder = label_studio_folder(settings)
    paths = sorted(folder.glob("annotations*.json"))
    if not paths:
        raise UserError(f"no {folder / 'annotations.json'}: export the Label Studio project as JSON and save it there")
    pairs, counts = PairSet(run_paths(settings).preferences), {"saved": 0, "known": 0, "late": 0, "incomplete": 0}
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        open_queue(settings, database, store)
        votes = [vote for path in paths for vote in _read_annotations(path, database, pairs)]
        known = {(vote.annotator, vote.pair_id) for vote in store.votes()}
        for vote in votes:
            if not vote.annotation.complete:
                counts["incomplete"] += 1
            elif (vote.annotator, vote.pair_id) in known:
                counts["known"] += 1
            else:
                counts["saved" if _save(store, vote) else "late"] += 1
    return ImportResult(**counts)


def _save(store: Store, vote: Vote) -> bool:
    """Saves a vote. Returns whether the pair needed it."""
    try:
        store.cast(vote, needs_lease=False)
    except (AlreadyVotedError, NotOpenError):
        return False
    return True


def _task_data(database: Database, pairs: PairSet, pair_id: str, folder: Path) -> dict[str, Any]:
    """The task of a pair. Writes its images, under names that do not tell the sides."""
    pair, first = pairs.pair(pair_id), _first_side(database, pair_id)
    data: dict[str, Any] = {
        "pair_id": pair_id,
        "key": _key(database, "task", pair_id),
        "prompt": pair.prompt,
        "claims": [{"text": " ".join(claim)} for claim in pair.claims],
    }
    sides: tuple[tuple[str, Side], ...] = (("first", first), ("second", _other(first)))
    for order, side in sides:
        content = pairs.image(pair_id, side)
        suffix = next((suffix for start, suffix in _SUFFIXES.items() if content.startswith(start)), "png")
        name = f"images/{_key(database, order, pair_id)}.{suffix}"
        write_file(str(folder / name), content)
        data[order] = f"/data/local-files/?d={name}"
    return data


def _read_tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of a JSON file. Raises UserError if it is none."""
    try:
        tasks = parse_json(path.read_bytes())
        if not isinstance(tasks, list):
            raise JsonError("it must be a list of tasks")
    except (JsonError, OSError) as error:
        raise UserError(
            f"{path} must be a JSON export of Label Studio, got: {error}: export the project again"
        ) from error
    return cast("list[dict[str, Any]]", tasks)


def _read_annotations(path: Path, database: Database, pairs: PairSet) -> list[Vote]:
    """The annotations of a file as votes. Raises UserError for a task that Label Studio did not write."""
    votes: list[Vote] = []
    for number, task in enumerate(_read_tasks(path), start=1):
        try:
            data = task["data"]
            pair_id = str(data["pair_id"])
            if pair_id not in pairs or data["key"] != _key(database, "task", pair_id):
                raise UserError(
                    f"a task must be one that this review exported, got pair {pair_id!r} with key {data['key']!r}: "
                    "import the project that was made from this run's tasks"
                )
            first = _first_side(database, pair_id)
            for annotation in task["annotations"]:
                if not annotation.get("was_cancelled"):
                    votes.append(_vote(annotation, pairs, pair_id, first))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise UserError(
                f"task {number} of {path} must be as Label Studio exports it, got {type(error).__name__}: {error}: "
                "export the project again, as JSON and not as JSON-MIN"
            ) from error
    return votes


def _vote(annotation: dict[str, Any], pairs: PairSet, pair_id: str, first: Side) -> Vote:
    """One annotation as a vote. Raises ValueError, KeyError or TypeError if it is not one of our tasks."""
    rule, annotator = pairs.pair(pair_id).rule, _annotator(annotation)
    choices = {
        part["from_name"]: part["value"]["choices"] for part in annotation["result"] if "choices" in part["value"]
    }
    texts = [part["value"]["text"] for part in annotation["result"] if "text" in part["value"]]
    note = " ".join(line for text in texts for line in ([text] if isinstance(text, str) else text))[:MAX_NOTE]
    if choices.get("problem"):
        given = Annotation.of_bad_prompt(rule.claims, note)
    else:
        shown = {order: _chosen(choices, order, rule.claims) for order in ("first", "second")}
        winner, loser = ("first", "second") if first == "w" else ("second", "first")
        given = Annotation(shown[winner], shown[loser], note=note)
        given.check(rule.claims, Asked((), ()))
    return Vote(
        vote_id=f"{annotator}|{pair_id}",
        pair_id=pair_id,
        annotator=annotator,
        stage="review",
        annotation=given,
        verdict=verdict(rule, given),
        first_side=first,
        seconds=max(0.0, float(annotation.get("lead_time") or 0.0)),
        cast_at=datetime.fromisoformat(annotation["created_at"]).timestamp(),
    )


def _chosen(choices: Mapping[str, list[str]], order: str, claims: int) -> tuple[Answer, ...]:
    """The answers about one image, "" for a missing one. `Annotation.check` refuses other words."""
    return tuple(cast(Answer, (choices.get(f"{order}_{claim}") or [""])[0]) for claim in range(claims))


def _key(database: Database, purpose: str, pair_id: str) -> str:
    return hmac.digest(database.secret, f"label-studio|{pair_id}|{purpose}".encode(), "sha256").hex()[:24]


def _first_side(database: Database, pair_id: str) -> Side:
    """The image that Label Studio shows first."""
    return SIDES[int(_key(database, "side", pair_id), 16) % 2]


def _other(side: Side) -> Side:
    return "l" if side == "w" else "w"


def _annotator(annotation: dict[str, Any]) -> str:
    """The annotator's name. Depending on the export, Label Studio gives a number or an account."""
    account = annotation["completed_by"]
    return f"label-studio-{account['email'] if isinstance(account, dict) else account}"
