"""Who has access: links are kept, replaced and taken away only if somebody says so, and sessions end with them."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conf import UserError
from conf.review import ReviewSettings
from pipelines.preferences.review.auth import SESSION_SECONDS, Auth
from pipelines.preferences.review.database import Database
from pipelines.preferences.review.invitations import Guests, invite, write_links

ADDRESS = "http://127.0.0.1:8765"
TOKEN = "A" * 32


@pytest.fixture
def links(tmp_path: Path) -> Path:
    return tmp_path / "invitations.txt"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "review.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def start(database: Database, links: Path) -> Callable[..., Guests]:
    """Does what a start of the server does."""

    def invite_and_write(**names: tuple[str, ...]) -> Guests:
        guests = invite(database, links, ReviewSettings(**names))  # type: ignore[arg-type]
        write_links(links, guests.invitations, ADDRESS)
        return guests

    return invite_and_write


def test_without_names_everybody_keeps_their_link_and_their_role(start: Callable[..., Guests]) -> None:
    first = start(annotators=("ann", "ben"), adjudicators=("cleo",))
    again = start()
    assert again.invitations == first.invitations and not again.removed
    assert again.names("review") == "ann, ben" and again.names("adjudication") == "cleo"


def test_the_first_start_without_names_invites_the_default_names(start: Callable[..., Guests]) -> None:
    assert list(start().invitations) == ["annotator_1", "annotator_2", "adjudicator"]


def test_names_replace_those_of_their_role_only_and_the_removed_are_named(start: Callable[..., Guests]) -> None:
    first = start(annotators=("ann", "ben"), adjudicators=("cleo",))
    second = start(annotators=("ann", "dan"))
    assert second.names("review") == "ann, dan" and second.names("adjudication") == "cleo"
    assert second.removed == ("ben",)
    assert second.invitations["ann"] == first.invitations["ann"]
    third = start(annotators=("ann", "cleo"))
    assert third.names("adjudication") == "nobody", "cleo cannot decide about her own votes"
    assert set(third.removed) == {"dan"}


def test_a_person_whose_line_was_deleted_gets_a_new_link(start: Callable[..., Guests], links: Path) -> None:
    first = start(annotators=("ann", "ben"))
    links.write_text("".join(line for line in links.read_text().splitlines(True) if not line.startswith("ann ")))
    second = start()
    assert second.invitations["ann"].token != first.invitations["ann"].token
    assert second.invitations["ben"] == first.invitations["ben"]


def test_too_few_annotators_are_a_user_error(start: Callable[..., Guests], links: Path) -> None:
    with pytest.raises(UserError, match="got 3 with 2"):
        start(annotators_per_pair=3)
    assert not links.exists()


def test_links_of_an_older_version_need_names_once(start: Callable[..., Guests], links: Path) -> None:
    links.write_text(f"ann {ADDRESS}/#{TOKEN}\nadjudicator {ADDRESS}/#{'B' * 32}\n")
    with pytest.raises(UserError, match="invites ann, but the review does not know what they do"):
        start()
    assert start(annotators=("ann", "ben")).invitations["ann"].token == TOKEN


GARBAGE: dict[str, bytes] = {
    "binary": b"\x89PNG\r\n\x1a\n\xff\xfe",
    "text": b"hello world\n",
    "half a line": b"ann http://127.0.0.1:87",
    "a short token": f"ann {ADDRESS}/#abc".encode(),
    "the same link twice": f"ann {ADDRESS}/#{TOKEN}\nben {ADDRESS}/#{TOKEN}\n".encode(),
    "the same name twice": f"ann {ADDRESS}/#{TOKEN}\nann {ADDRESS}/#{'B' * 32}\n".encode(),
    "UTF-16": f"ann {ADDRESS}/#{TOKEN}\n".encode("utf-16"),
    "NUL": b"ann\0 x",
}


@pytest.mark.parametrize("name", GARBAGE)
def test_a_damaged_file_of_links_is_one_message_without_its_links(
    start: Callable[..., Guests], links: Path, name: str
) -> None:
    links.write_bytes(GARBAGE[name])
    with pytest.raises(UserError, match="delete") as error:
        start()
    assert str(links) in str(error.value) and TOKEN not in str(error.value)
    assert links.read_bytes() == GARBAGE[name]


def test_what_an_editor_changes_in_the_file_does_no_harm(start: Callable[..., Guests], links: Path) -> None:
    first = start(annotators=("ann", "ben"))
    lines = links.read_text().splitlines()
    links.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["", *lines, "", ""]).encode())
    assert start().invitations == first.invitations


def test_links_are_written_whole_and_for_their_owner_only(start: Callable[..., Guests], links: Path) -> None:
    start()
    links.chmod(0o644)
    start()
    assert stat.S_IMODE(links.stat().st_mode) == 0o600
    assert not [name for name in os.listdir(links.parent) if "partial" in name]
    links.unlink()
    links.mkdir()
    with pytest.raises(UserError, match="must be a text file of login links"):
        start()


def test_a_session_ends_with_its_link(start: Callable[..., Guests], links: Path, database: Database) -> None:
    auth = Auth(database, start(annotators=("ann", "ben")).invitations)
    logged_in = auth.log_in(auth.invitations["ann"].token)
    other = auth.log_in(auth.invitations["ben"].token)
    assert logged_in and other
    assert Auth(database, start().invitations).session(logged_in[0]), "a restart does not end it"
    links.write_text("".join(line for line in links.read_text().splitlines(True) if not line.startswith("ann ")))
    replaced = Auth(database, start().invitations)
    assert replaced.session(logged_in[0]) is None, "the old link may be known to others"
    assert replaced.session(other[0])
    start(annotators=("cat", "dan"))
    returned = Auth(database, start(annotators=("ann", "ben")).invitations)
    assert returned.session(logged_in[0]) is None and returned.session(other[0]) is None, (
        "sessions of a removed person do not come back"
    )


def test_a_session_ends_with_its_age(
    start: Callable[..., Guests], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = Auth(database, start().invitations)
    logged_in = auth.log_in(auth.invitations["adjudicator"].token)
    assert logged_in
    now = time.time()
    for age, valid in ((-3600.0, True), (SESSION_SECONDS - 60, True), (SESSION_SECONDS + 60, False)):
        monkeypatch.setattr(time, "time", lambda age=age: now + age)
        assert bool(auth.session(logged_in[0])) == valid, age
    auth.log_in(auth.invitations["annotator_1"].token)
    assert len(database.all("SELECT * FROM sessions")) == 1, "sessions that have ended are removed"
