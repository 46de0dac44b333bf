"""Ray's client of the jobs API with time limits, and errors of one line that say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

from conf import UserError
from conf.operations import DASHBOARD
from pipelines.common.cluster_address import accepts_connections

CONNECT_SECONDS, ANSWER_SECONDS = 4.0, 60.0
"""Time that the dashboard has to accept a connection, and to send the next part of an answer."""
HEARTBEAT_SECONDS = 30.0
"""Time between two pings of the log's connection. Without an answer it counts as cut."""
VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Environment variables that Ray's client prefers to its argument, in this order."""
ADDRESS_FIX = "check submit.address (the cluster's dashboard, e.g. through `kubectl port-forward` or `ssh -L`)"
TOKEN_FIX = "put the cluster's token into RAY_AUTH_TOKEN or ~/.ray/auth_token; docs/cluster.md says where to find it"


class NoAnswerError(UserError):
    """The cluster does not answer, or answers with an error of its own. A later try may succeed."""


class JobGoneError(UserError):
    """The cluster does not know the job: its head was started again."""


def select_cluster(address: str) -> None:
    """Makes Ray's clients in this process use the dashboard at `address`. Call it before they are imported."""
    if address:
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray's client prefers this and RAY_ADDRESS to its argument
    elif os.environ.get("RAY_ADDRESS") == "local":
        del os.environ["RAY_ADDRESS"]  # a private cluster accepts no jobs
    if has_token():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's client sends the token in this mode only


def has_token() -> bool:
    """Whether this user has a Ray token, in one of the three places where Ray looks."""
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    default = Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or (Path(path) if path else default).is_file()


def connect(address: str, verify: str) -> Any:
    """A client of the cluster whose dashboard is at `address`; "": of the one that Ray's variables name.

    It has the methods of Ray's JobSubmissionClient, and `sent_bytes`, the size of the package that it uploaded. Its
    methods raise NoAnswerError, JobGoneError or UserError. Here both are raised as well, within 5 seconds.
    """
    select_cluster(address)
    _check_variables()
    client_class = _client_class()  # reads RAY_AUTH_MODE when it is imported
    with _Translated():
        return client_class(address or None, verify=_certificates(verify))


def _check_variables() -> None:
    """Refuses addresses on which Ray's client would try for a minute."""
    name, address = next(((each, os.environ[each]) for each in VARIABLES if os.environ.get(each)), ("", "auto"))
    if DASHBOARD.fullmatch(address):
        return
    if name == VARIABLES[0]:
        raise UserError(f"{name} must be the URL of Ray's dashboard, got {address!r}: write e.g. http://{address}")
    if not accepts_connections(address):
        at = f" at {name}={address}" if name else " on this machine"
        raise NoAnswerError(f"no Ray cluster answers{at}: {ADDRESS_FIX}")


def _certificates(verify: str) -> bool | str:
    """What Ray's client takes: whether to check certificates, or the place of those to trust."""
    if verify.lower() in ("true", "false"):
        bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        return (bundle or True) if verify.lower() == "true" else False  # the log's connection does not read them
    return verify


def _client_class() -> Any:
    import aiohttp
    from ray.job_submission import JobSubmissionClient

    class JobClient(JobSubmissionClient):
        """Ray's client with time limits. Each error is one of this module's."""

        sent_bytes = 0

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            """Every request of Ray's client goes through this method."""
            if method == "PUT":
                self.sent_bytes = len(options.get("data") or b"")
            with _Translated():
                return super()._do_request(method, endpoint, timeout=(CONNECT_SECONDS, ANSWER_SECONDS), **options)

        def _raise_error(self, r: Any) -> NoReturn:
            error = f"{r.status_code}: {r.text.strip().splitlines()[-1] if r.text.strip() else 'no message'}"
            if r.status_code == 404 and "does not exist" in r.text:
                raise JobGoneError("the cluster does not know the job: its head was started again")
            if r.status_code >= 500:
                raise NoAnswerError(f"the cluster answers with error {error[:300]}")
            raise UserError(f"the cluster refuses the request, {error[:300]}")

        async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
            """The job's log from its beginning. Unlike Ray's method it notices a connection that is dead."""
            url = f"{self._address}/api/jobs/{job_id}/logs/tail"
            secure: Any = True if self._ssl_context is None else self._ssl_context
            try:
                async with (
                    aiohttp.ClientSession(cookies=self._cookies, headers=self._headers) as session,
                    session.ws_connect(url, ssl=secure, heartbeat=HEARTBEAT_SECONDS, max_msg_size=0) as log,
                ):
                    async for message in log:
                        if message.type == aiohttp.WSMsgType.TEXT:
                            yield message.data
                    if log.close_code != aiohttp.WSCloseCode.OK:
                        raise NoAnswerError(f"the connection was cut (code {log.close_code})")
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise NoAnswerError(f"the connection was cut ({type(error).__name__})") from error

    return JobClient


class _Translated:
    """Inside the block, errors of Ray's client become those of this module."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        import requests
        from ray.exceptions import AuthenticationError

        if error is None or isinstance(error, UserError):
            return
        if isinstance(error, AuthenticationError):
            token = "it is not this user's token" if has_token() else "this user has no token"
            raise UserError(f"the cluster refuses this user, {token}: {TOKEN_FIX}") from error
        if isinstance(error, (requests.RequestException, ConnectionError)):
            raise _no_answer(error) from error
        if isinstance(error, (RuntimeError, ValueError, OSError)):
            raise UserError(f"the cluster cannot be used: {_first_line(error)}; {ADDRESS_FIX}") from error


def _no_answer(error: Exception) -> UserError:
    """What to say if a request got no answer."""
    import requests

    text = str(error)
    if isinstance(error, requests.exceptions.SSLError):
        if "WRONG_VERSION_NUMBER" in text or "record layer" in text:
            return UserError("the dashboard speaks http, not https: write submit.address=http://...")
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return UserError(
                "the dashboard's certificate is not trusted: set submit.verify to the file with your CA's certificate"
            )
    if isinstance(error, (requests.exceptions.HTTPError, ValueError)):  # also an answer that is no JSON
        return UserError(f"another server than Ray's dashboard answers ({_first_line(error)}): {ADDRESS_FIX}")
    cause = re.search(
        r"(Connection refused|timed out|Name or service not known|[Nn]o route to host|reset by peer)", text
    )
    return NoAnswerError(
        f"the dashboard does not answer ({cause[0] if cause else type(error).__name__}): {ADDRESS_FIX}"
    )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
