"""`spatialt2i preferences review`: opens the run's review and serves its page until it is interrupted."""

from __future__ import annotations

import socket
from pathlib import Path

import uvicorn

from conf.settings import Settings
from pipelines.common.paths import run_paths
from pipelines.preferences.review.app import create_app
from pipelines.preferences.review.auth import Auth, invite
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.pairs import PairSet, pair_files
from pipelines.preferences.review.queue import ReviewQueue
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.triage_scores import TriageScores


def open_database(settings: Settings) -> Database:
    """Opens the database of the run's review, and creates it if there is none."""
    return Database(run_paths(settings).review_database)


def open_store(settings: Settings, database: Database) -> Store:
    """The votes of the run's review."""
    return Store(database, settings.review.annotators_per_pair, settings.review.lease_minutes * 60)


def open_queue(settings: Settings, database: Database, store: Store) -> ReviewQueue:
    """The run's pairs, ready for review. Raises UserError if there are none."""
    cfg, paths = settings.review, run_paths(settings)
    gold = PairSet(Path(cfg.gold_pairs)) if cfg.gold_pairs else None
    scores = TriageScores.read(paths.triage_scores)
    return ReviewQueue(PairSet(paths.preferences), gold, store, database.secret, cfg, scores)


def serve_review(settings: Settings) -> None:
    """Serves the review until SIGINT or SIGTERM. Login links are written to a file, never to the terminal.

    Raises UserError, and writes nothing, if there are no pairs.
    """
    pair_files(run_paths(settings).preferences)  # before the database is created
    cfg, invitations = settings.review, run_paths(settings).review_invitations
    database = open_database(settings)
    store = open_store(settings, database)
    queue = open_queue(settings, database, store)
    with socket.create_server((cfg.host, cfg.port)) as listener:
        address = f"{'https' if cfg.https else 'http'}://{cfg.host}:{listener.getsockname()[1]}"
        tokens = invite(invitations, (*cfg.annotators, *cfg.adjudicators), address)
        auth = Auth(database, tokens, frozenset(cfg.adjudicators))
        app = create_app(queue, store, auth, cfg.https)
        print(f"review  serving at {address}; login links for {len(tokens)} annotators: {invitations}", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])
    database.close()
