"""`spatialt2i preferences review`: opens the run's review and serves its page until it is interrupted."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from conf.review import ReviewSettings
from conf.settings import Settings
from pipelines.common.http_limits import HeaderDeadline
from pipelines.common.paths import run_paths
from pipelines.preferences.review.app import create_app
from pipelines.preferences.review.auth import Auth
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.invitations import Guests, invite, read_links, write_links
from pipelines.preferences.review.pairs import PairSet
from pipelines.preferences.review.queue import ReviewQueue
from pipelines.preferences.review.store import Store
from pipelines.preferences.review.triage_scores import TriageScores

_SHUTDOWN_SECONDS = 5  # for requests that are being answered


def open_database(settings: Settings) -> Database:
    """Opens the database of the run's review, and creates it if there is none. Raises UserError if it is unusable."""
    return Database(run_paths(settings).review_database)


def open_store(settings: Settings, database: Database) -> Store:
    """The votes of the run's review."""
    return Store(database, settings.review.annotators_per_pair, settings.review.lease_minutes * 60)


def open_queue(settings: Settings, database: Database, store: Store) -> ReviewQueue:
    """The run's pairs, ready for review. Raises UserError if there are none."""
    cfg, paths = settings.review, run_paths(settings)
    gold = PairSet(Path(cfg.gold_pairs)) if cfg.gold_pairs else None
    scores = TriageScores.read(paths.triage_scores)
    masters = settings.preferences.masters
    return ReviewQueue(PairSet(paths.preferences), gold, store, database.secret, cfg, scores, masters)


def serve_review(settings: Settings, listener: socket.socket) -> None:
    """Serves the review until SIGINT or SIGTERM, and then raises SystemExit with code 130 or 143.

    Login links are written to a file, never to the terminal. Raises UserError, and writes nothing, if there are no
    pairs, or if a file of the review is damaged.
    """
    cfg, paths = settings.review, run_paths(settings)
    PairSet(paths.preferences)
    read_links(paths.review_invitations)
    with closing(open_database(settings)) as database:
        store = open_store(settings, database)
        if cfg.void_votes:
            count = store.void(cfg.void_votes)
            print(f"review  {count} votes of {', '.join(cfg.void_votes)} do not count any more; their pairs open again")
        queue = open_queue(settings, database, store)
        guests = invite(database, paths.review_invitations, cfg)
        address = _address(cfg, listener)
        write_links(paths.review_invitations, guests.invitations, address)
        _announce(guests, address, paths.review_invitations)
        received = _run(create_app(queue, store, Auth(database, guests.invitations), cfg.https), listener)
        saved = len(store.votes())
    print(f"review  stopped; {saved} votes are in {paths.review_database}. The same command goes on.", flush=True)
    raise SystemExit(128 + received)


class _Server(uvicorn.Server):
    """Ends after SIGINT or SIGTERM, so that the review can be closed. Uvicorn itself would raise the signal again."""

    received: int = 0

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        """Handles both signals while the server runs."""
        handlers = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Finishes the requests that are being answered. A second signal does not wait for them."""
        self.force_exit = self.should_exit
        self.should_exit = True
        self.received = sig


def _run(app: FastAPI, listener: socket.socket) -> int:
    """Serves until a signal arrives and returns its number."""
    config = uvicorn.Config(
        app,
        http=HeaderDeadline,
        ws="none",
        lifespan="off",
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    server = _Server(config)
    asyncio.run(server.serve(sockets=[listener]))
    return server.received


def _address(cfg: ReviewSettings, listener: socket.socket) -> str:
    """What annotators type: `review.address`, else the address that this process listens on."""
    if cfg.address:
        return cfg.address.rstrip("/")
    host = f"[{cfg.host}]" if ":" in cfg.host else cfg.host
    return f"{'https' if cfg.https else 'http'}://{host}:{listener.getsockname()[1]}"


def _announce(guests: Guests, address: str, links: Path) -> None:
    """Says who has access, who has lost it, and where the login links are."""
    print(f"review  annotators: {guests.names('review')}; adjudicators: {guests.names('adjudication')}")
    if guests.removed:
        print(
            f"review  no longer invited: {', '.join(guests.removed)}. Their links and sessions ended, their votes stay"
        )
    print(f"review  serving at {address}; login links for {len(guests.invitations)} annotators: {links}", flush=True)
