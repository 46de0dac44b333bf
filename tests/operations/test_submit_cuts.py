"""`submit` follows a job through cuts and restarts, and explains in one line what is wrong with its address."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conf import Settings, SettingsError, UserError
from pipelines.cli import main, parse_settings
from pipelines.operations import follow, job_client
from pipelines.operations import submit as submit_module
from pipelines.operations.submit import STILL_RUNNING, submit
from tests.support.jobs_server import JobsServer, running_jobs_server
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
LOG = "iteration 1/3\niteration 2/3\niteration 3/3\n"
COMMAND = ["policy", "train", "run_dir=/shared/a"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Short delays, a small folder to send, and variables that are restored."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setattr(follow, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(follow, "LONGEST_DELAY", 0.05)
    monkeypatch.setattr(submit_module.time, "sleep", lambda seconds: None)
    for name in ("pipelines/cli.py", "conf/settings.py"):
        (tmp_path / "project" / name).parent.mkdir(parents=True)
        (tmp_path / "project" / name).write_text("")


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    def settings(server: JobsServer, *words: str, scheme: str = "http") -> Settings:
        address = f"submit.address={scheme}://127.0.0.1:{server.port}"
        return parse_settings(["submit", *COMMAND, address, f"submit.working_dir={tmp_path}/project", *words])[1]

    return settings


def test_a_job_is_followed_to_its_exit_code_and_says_what_was_sent(
    settings_of: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with running_jobs_server(script=[(LOG, 3)]) as server:
        assert submit(settings_of(server)) == 3
    output = capsys.readouterr().out
    assert LOG in output and "sent 0.0 MB of" in output and "commit unknown" in output
    (job,) = server.jobs.values()
    assert job.submission["entrypoint"] == "python -m pipelines.cli policy train run_dir=/shared/a"
    assert job.submission["metadata"]["run_dir"] == "/shared/a" and server.uploaded


def test_cuts_are_survived_and_each_line_is_printed_once(
    settings_of: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with running_jobs_server(script=[(LOG, 0)], cuts=2, refusals=3) as server:
        assert submit(settings_of(server)) == 0
    output = capsys.readouterr().out
    assert server.attached == 3 and len(server.jobs) == 1
    assert [output.count(line) for line in LOG.splitlines()] == [1, 1, 1], output
    assert "connected again, job raysubmit_0 is running" in output and "error 503" in output


def test_a_connection_that_is_dead_but_open_counts_as_cut(
    settings_of: Callable[..., Settings], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_client, "HEARTBEAT_SECONDS", 0.2)
    with running_jobs_server(script=[(LOG, 0)], silences=1) as server:
        assert submit(settings_of(server)) == 0
    output = capsys.readouterr().out
    assert "the connection was cut" in output and "connected again, job raysubmit_0 is running" in output
    assert [output.count(line) for line in LOG.splitlines()] == [1, 1, 1], output


def test_giving_up_has_an_exit_code_of_its_own_and_names_the_command_that_follows_again(
    settings_of: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with running_jobs_server(script=[(LOG, 0)], cuts=1, refusals=10**6) as server:
        assert submit(settings_of(server, "submit.patience_minutes=0.005")) == STILL_RUNNING
        output = capsys.readouterr().out
        assert "follow it:  spatialt2i submit policy train run_dir=/shared/a" in output
        server.refusals = 0
        assert submit(settings_of(server)) == 0
    assert "is already running this command in /shared/a: following it" in capsys.readouterr().out
    assert len(server.jobs) == 1


def test_another_command_on_the_same_run_is_refused_unless_it_takes_over(settings_of: Callable[..., Settings]) -> None:
    with running_jobs_server(script=[(LOG, 0)]) as server:
        assert submit(settings_of(server, "submit.follow=false")) == 0
        with pytest.raises(UserError, match="raysubmit_0 is at work in /shared/a with another command"):
            submit(settings_of(server, "policy.iterations=3"))
        assert submit(settings_of(server, "policy.iterations=3", "take_over=true")) == 0
    assert len(server.jobs) == 2


def test_a_command_that_only_reads_a_run_is_not_kept_from_it(tmp_path: Path) -> None:
    with running_jobs_server(script=[(LOG, 0)]) as server:
        options = [f"submit.address=http://127.0.0.1:{server.port}", f"submit.working_dir={tmp_path}/project"]
        for words in (COMMAND, ["doctor", "run_dir=/shared/a"], ["doctor", "run_dir=/shared/a"]):
            assert submit(parse_settings(["submit", *words, *options, "submit.follow=false"])[1]) == 0
    assert len(server.jobs) == 3


def test_keep_submits_again_until_the_run_ends_well(settings_of: Callable[..., Settings]) -> None:
    with running_jobs_server(script=[(LOG, 137), (LOG, 1), (LOG, 0)]) as server:
        assert submit(settings_of(server, "submit.keep=true")) == 0
    assert len(server.jobs) == 3


@pytest.mark.parametrize(("code", "jobs", "expected"), [(1, 3, 1), (2, 1, 2), (-1, 1, 130)])
def test_keep_stops_at_early_failures_wrong_input_and_a_stopped_job(
    settings_of: Callable[..., Settings], code: int, jobs: int, expected: int
) -> None:
    with running_jobs_server(script=[(LOG, code)]) as server:
        assert submit(settings_of(server, "submit.keep=true")) == expected
    assert len(server.jobs) == jobs


def test_a_job_that_the_head_has_lost_is_submitted_again_if_it_is_kept(
    settings_of: Callable[..., Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    with running_jobs_server(script=[(LOG, 0)], cuts=1, loses_jobs=True) as server:
        assert submit(settings_of(server, "submit.keep=true")) == 0
    assert len(server.jobs) == 2
    assert "job raysubmit_0 is lost" in capsys.readouterr().out
    with running_jobs_server(script=[(LOG, 0)], cuts=1, loses_jobs=True) as server:
        assert submit(settings_of(server)) == 1
    assert len(server.jobs) == 1


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """The certificate of 127.0.0.1 that signs itself, and a server's context with it."""
    folder = tmp_path_factory.mktemp("ca")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{folder}/key.pem", "-out", f"{folder}/ca.pem"]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "ca.pem", folder / "key.pem")
    return folder / "ca.pem", context


def test_a_private_ca_is_trusted_by_requests_and_by_the_log(
    settings_of: Callable[..., Settings], certificate: tuple[Path, ssl.SSLContext], capsys: pytest.CaptureFixture[str]
) -> None:
    file, context = certificate
    with running_jobs_server(script=[(LOG, 0)], secure=context) as server:
        assert submit(settings_of(server, f"submit.verify={file}", scheme="https")) == 0
        assert submit(settings_of(server, "submit.verify=false", scheme="https")) == 0
        assert capsys.readouterr().out.count("iteration 3/3") == 2
        with pytest.raises(UserError, match="certificate is not trusted: set"):
            submit(settings_of(server, scheme="https"))
    with running_jobs_server() as plain, pytest.raises(UserError, match="speaks http, not https"):
        submit(settings_of(plain, scheme="https"))


def test_wrong_addresses_and_tokens_are_one_line_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(*words: str) -> str:
        assert main(["submit", *COMMAND, f"submit.working_dir={tmp_path}/project", *words]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        return err

    assert "submit.address=http://127.0.0.1:8265" in error("submit.address=127.0.0.1:8265")
    assert "Connection refused" in error(f"submit.address=http://127.0.0.1:{free_port()}")
    with running_jobs_server(token="right") as server:
        assert "it is not this user's token" in error(f"submit.address=http://127.0.0.1:{server.port}")
    assert "exists, got /no/ca.pem" in error("submit.verify=/no/ca.pem")
    (tmp_path / "home").mkdir()
    assert "must be the folder of this repository" in error(f"submit.working_dir={tmp_path}/home")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "head:8265")
    assert "RAY_API_SERVER_ADDRESS must be the URL" in error()


def test_a_head_that_does_not_accept_connections_is_reported_after_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address of TEST-NET-1: packets to it are dropped or refused. Ray's own client has no limit."""
    monkeypatch.setattr(job_client, "CONNECT_SECONDS", 0.3)
    with pytest.raises(UserError, match="the dashboard does not answer"):
        job_client.connect("http://192.0.2.1:8265", "true")


@pytest.mark.parametrize("words", [["submit.keep=true", "submit.follow=false"], ["submit.verify="]])
def test_settings_that_contradict_each_other_are_refused(words: list[str]) -> None:
    with pytest.raises(SettingsError, match="submit"):
        parse_settings(["submit", *COMMAND, *words])
