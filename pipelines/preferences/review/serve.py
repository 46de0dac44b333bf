"""`spatialt2i preferences review`: the page, until interrupted."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn

from conf.settings import Settings
from pipelines.preferences.review.app import create_app
from pipelines.preferences.review.auth import Auth, invite
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.pairs import PairSet, pairs_folder
from pipelines.preferences.review.queue import ReviewQueue
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.triage_scores import TriageScores


def review_folder(settings: Settings) -> Path:
    """Where a run keeps its review. Absolute."""
    return Path(settings.run_dir).absolute() / "review"


def review_database(settings: Settings) -> Path:
    """The SQLite file of a run's review, there or not."""
    return review_folder(settings) / "review.sqlite"


def open_database(settings: Settings) -> Database:
    """The run's review, made if there is none."""
    return Database(review_database(settings))


def open_store(settings: Settings, database: Database) -> Store:
    """The run's votes."""
    return Store(database, settings.review.annotators_per_pair, settings.review.lease_minutes * 60)


def open_queue(settings: Settings, database: Database, store: Store) -> ReviewQueue:
    """The run's pairs, ready for review. Raises FileNotFoundError where there are none."""
    own = settings.review
    gold = PairSet(Path(own.gold_pairs)) if own.gold_pairs else None
    doubts = TriageScores.read(review_folder(settings))
    return ReviewQueue(PairSet(pairs_folder(settings)), gold, store, database.secret, own, doubts)


def serve_review(settings: Settings) -> None:
    """Serves the review until SIGINT or SIGTERM. Login links are written to a file, never to the terminal."""
    own, invitations = settings.review, review_folder(settings) / "invitations.txt"
    database = open_database(settings)
    store = open_store(settings, database)
    desk = open_queue(settings, database, store)
    with socket.create_server((own.host, own.port)) as listener:
        address = f"{'https' if own.https else 'http'}://{own.host}:{listener.getsockname()[1]}"
        tokens = invite(invitations, (*own.annotators, *own.adjudicators), address)
        doors = Auth(database, tokens, frozenset(own.adjudicators))
        app = create_app(desk, store, doors, own.https)
        print(f"review at {address} for {len(tokens)} people, whose login links are in {invitations}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
    database.close()
