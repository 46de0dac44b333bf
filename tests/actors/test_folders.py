"""Folders are replaced whole; what somebody else put into them stays; killed writers leave nothing for long."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.files import delete_files, write_file
from actors.folders import (
    MARKER,
    Marker,
    claim_folder,
    claim_names,
    create_folder,
    read_marker,
    remove_abandoned,
    write_folder,
    write_marker,
)
from conf import UserError
from conf.partial import is_abandoned, is_partial, partial_path, process_start

ROOT = Path(__file__).parents[2]


def model(*names: str) -> Callable[[Path], None]:
    """A writer of small files with private permissions, as some libraries make them."""

    def write(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"new {name}")
            (folder / name).chmod(0o600)

    return write


def add_neighbour(folder: Path, elsewhere: Path) -> dict[str, bytes]:
    """Files of somebody else in a folder: notes, a folder of digits, a link to a folder. Relative path -> content."""
    (folder / "2024" / "empty").mkdir(parents=True)
    (elsewhere / "precious").mkdir(parents=True)
    content = {"notes.txt": b"keep", "2024/photo.jpg": b"photo", "a.partial": b"mine", "model.old/x": b"mine too"}
    for name, data in content.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    (elsewhere / "precious" / "file").write_bytes(b"behind the link")
    (folder / "link").symlink_to(elsewhere / "precious")
    return {**content, "link/file": b"behind the link"}


def check_neighbour(folder: Path, content: dict[str, bytes]) -> None:
    assert {name: (folder / name).read_bytes() for name in content} == content
    assert (folder / "link").is_symlink() and (folder / "2024" / "empty").is_dir()


def test_a_replaced_folder_keeps_what_others_put_into_it(tmp_path: Path) -> None:
    target = tmp_path / "model"
    write_folder(target, model("weights", "sub/config", "obsolete"))
    content = add_neighbour(target, tmp_path / "elsewhere")
    write_folder(target, model("weights", "sub/config"))
    check_neighbour(target, content)
    assert (target / "weights").read_text() == "new weights" and not (target / "obsolete").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "elsewhere"}
    write_folder(target, model("weights"))
    check_neighbour(target, content)
    assert not (target / "sub").exists()


def test_a_neighbour_wins_no_name_of_ours_and_loses_no_byte(tmp_path: Path) -> None:
    """The new folder has a file of the same name: both contents are on the disk afterwards."""
    target = tmp_path / "model"
    write_folder(target, model("weights"))
    (target / "config").write_text("of a neighbour")
    write_folder(target, model("weights", "config"))
    assert (target / "config").read_text() == "new config"
    (old,) = [path for path in tmp_path.iterdir() if path.name.endswith(".old")]
    assert [path.read_text() for path in old.iterdir()] == ["of a neighbour"]
    remove_abandoned(tmp_path)
    assert (old / "config").read_text() == "of a neighbour"


@pytest.mark.parametrize("content", ["notes.txt", "2024/photo.jpg", "weights"])
def test_a_folder_that_we_did_not_write_is_not_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "model" / content).parent.mkdir(parents=True)
    (tmp_path / "model" / content).write_text("mine")
    with pytest.raises(UserError, match=r"would be replaced.*move the folder away"):
        write_folder(tmp_path / "model", model("weights"))
    assert (tmp_path / "model" / content).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_behind_a_link_is_replaced_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "big_disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "big_disk")
    for _ in range(2):
        write_folder(tmp_path / "model", model("weights"))
    assert (tmp_path / "model").is_symlink() and (tmp_path / "big_disk" / "weights").exists()


@pytest.mark.parametrize("write", [write_folder, create_folder])
def test_files_have_usual_permissions(tmp_path: Path, write: Callable[[Path, Callable[[Path], object]], None]) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "model", model("weights", "sub/config"))
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert len(files) >= 2 and {path.stat().st_mode & 0o777 for path in files} == {0o640}
    assert (tmp_path / "model" / "sub").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("write", [write_folder, create_folder])
def test_a_failed_writer_changes_nothing(
    tmp_path: Path, write: Callable[[Path, Callable[[Path], object]], None]
) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    if write is write_folder:
        write_folder(tmp_path / "model", model("weights"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "model", fail)
    assert sorted(tmp_path.rglob("*")) == before


def kill_while(folder: Path, patch: str) -> None:
    """Runs write_folder on folder/model in a process that stops at a point that `patch` chooses, and kills it there."""
    code = (
        "import sys, os, time; from pathlib import Path; import actors.folders as f\n"
        "def stop(*_, **__): print('here', flush=True); time.sleep(60)\n"
        f"{patch}\n"
        "def write(folder): (folder / 'weights').write_text('newer'); STOP_IN_WRITE and stop()\n"
        "f.write_folder(Path(sys.argv[1]) / 'model', write)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout and process.stdout.readline() == "here\n"
        process.send_signal(signal.SIGKILL)


IN_WRITE = "STOP_IN_WRITE = True"
BETWEEN_RENAMES = (
    "STOP_IN_WRITE = False; rename = Path.rename\n"
    "Path.rename = lambda path, to: stop() if path.name.endswith('.partial') else rename(path, to)"
)
BEFORE_CLEANING = "STOP_IN_WRITE = False; f._remove_replaced = stop"


@pytest.mark.parametrize(
    ("patch", "weights"), [(IN_WRITE, "new weights"), (BETWEEN_RENAMES, "new weights"), (BEFORE_CLEANING, "newer")]
)
def test_a_killed_writer_leaves_a_whole_folder(tmp_path: Path, patch: str, weights: str) -> None:
    """Killed at three points: the next start removes what is left, and puts back a folder that was moved aside."""
    target = tmp_path / "model"
    write_folder(target, model("weights"))
    content = add_neighbour(target, tmp_path / "elsewhere")
    kill_while(tmp_path, patch)
    assert any(is_partial(path.name) for path in tmp_path.iterdir())
    remove_abandoned(tmp_path)
    assert (target / "weights").read_text() == weights
    check_neighbour(target, content)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "elsewhere"}


def test_only_abandoned_partials_are_removed(tmp_path: Path) -> None:
    mine = tmp_path / Path(partial_path("a.json")).name
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    killed = mine.name.replace(f"-{os.getpid()}-", f"-{int(ended.stdout)}-")
    elsewhere = mine.name.replace(mine.name[7:15], "0" * 8)
    old = "b.json.00000000-1-00000000.partial"
    names = [mine.name, killed, elsewhere, old, "model.partial", "x.1234.partial", "notes.old"]
    for name in names:
        (tmp_path / name).write_text("")
    hours_ago = time.time() - 7200
    os.utime(tmp_path / old, (hours_ago, hours_ago))
    assert (is_abandoned(mine.name), is_abandoned(killed), is_abandoned(elsewhere)) == (False, True, None)
    remove_abandoned(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names) - {killed, old}


def test_a_process_is_known_by_its_start() -> None:
    start = process_start(os.getpid())
    assert start and start == process_start(os.getpid())
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.send_signal(signal.SIGKILL)
        while process_start(process.pid) is not None:  # until it is a zombie
            time.sleep(0.01)
    assert process_start(process.pid) is None


def test_only_our_files_of_a_folder_are_deleted(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "000001", tmp_path / "elsewhere"
    for name in ("rank-0.pt", "notes.txt", "sub/rank-0.pt"):
        write_file(str(folder / name), b"x")
    write_file(partial_path(str(folder / "rank-1.pt")), b"half")
    delete_files(str(folder), "rank-0.pt".__eq__)
    assert sorted(path.name for path in folder.rglob("*")) == ["notes.txt", "rank-0.pt", "sub"]
    write_file(str(elsewhere / "rank-0.pt"), b"x")
    (tmp_path / "000002").symlink_to(elsewhere)
    for location in ("000002", "absent", "000001/notes.txt"):
        delete_files(str(tmp_path / location), "rank-0.pt".__eq__)
    assert (elsewhere / "rank-0.pt").exists() and (folder / "notes.txt").exists()
    delete_files(str(elsewhere), "rank-0.pt".__eq__)
    assert not elsewhere.exists(), "an empty folder is removed"


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    mine, other = Marker("checkpoints", "run-1", "/runs/a"), Marker("checkpoints", "run-2", "/runs/b")
    location = f"file://{tmp_path}/claimed"
    for _ in range(2):
        claim_folder(location, mine, "policy.checkpoint.dir")
    assert read_marker(location) == mine
    with pytest.raises(UserError, match="belongs to another run, that of run_dir=/runs/a"):
        claim_folder(location, other, "policy.checkpoint.dir")
    with pytest.raises(UserError, match=r"another kind \(checkpoints\)"):
        claim_folder(location, Marker("run"), "run_dir")


def test_the_copy_of_a_run_does_not_get_the_folder_of_the_original(tmp_path: Path) -> None:
    """A copied run directory holds the id of the original, and settings that name the same folder."""
    first, second, third = (str(tmp_path / name) for name in ("first", "second", "third"))
    shared, setting = str(tmp_path / "shared"), "policy.checkpoint.dir"
    write_marker(first, Marker("run", "run-1", first))
    claim_folder(shared, Marker("checkpoints", "run-1", first), setting)
    claim_folder(f"{first}/checkpoints", Marker("checkpoints", "run-1", first), setting)
    (tmp_path / "link").symlink_to(first)
    claim_folder(shared, Marker("checkpoints", "run-1", str(tmp_path / "link")), setting)
    shutil.copytree(first, second)
    with pytest.raises(UserError, match=r"belongs to run_dir=.*, of which run_dir=.*second is a copy: set policy\.che"):
        claim_folder(shared, Marker("checkpoints", "run-1", second), setting)
    claim_folder(f"{second}/checkpoints", Marker("checkpoints", "run-1", second), setting)  # copied with it
    shutil.rmtree(second)
    (tmp_path / "link").unlink()
    Path(first).rename(third)
    claim_folder(shared, Marker("checkpoints", "run-1", third), setting)  # the run was moved
    shutil.copytree(third, first)
    with pytest.raises(UserError, match=r"belongs to run_dir=.*third, of which run_dir=.*first is a copy"):
        claim_folder(shared, Marker("checkpoints", "run-1", first), setting)


@pytest.mark.parametrize("location", ["gs1://bucket/x", "{}/file/below", "{}/file"])
def test_a_folder_that_cannot_be_claimed_is_an_error_of_the_user(tmp_path: Path, location: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^policy\.checkpoint\.dir=.* cannot be used: "):
        claim_folder(location.format(tmp_path), Marker("checkpoints"), "policy.checkpoint.dir")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"kind": 5}', b'{"kind": "files", "files": null}', b"\xff"])
def test_a_marker_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MARKER).write_bytes(content)
    assert read_marker(str(tmp_path)) is None
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="must be a folder of this run only"):
        claim_folder(str(tmp_path), Marker("checkpoints"), "policy.checkpoint.dir")


def test_names_of_others_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    claim_names(tmp_path, "label_studio", ["config.xml"])
    write_file(str(tmp_path / "config.xml"), b"ours")
    claim_names(tmp_path, "label_studio", ["config.xml"])
    (tmp_path / MARKER).unlink()
    with pytest.raises(UserError, match=r"config\.xml, not written by this program"):
        claim_names(tmp_path, "label_studio", ["config.xml"])
