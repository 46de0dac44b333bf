"""Applications of Ray Serve that do not start, or start late. Serve itself is replaced: what it reports is recorded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray import serve
from ray.exceptions import ActorDiedError

from actors.workers import serve_http
from actors.workers.serve_http import start_serve_http
from actors.workers.serve_start import StartError, run_application
from conf import SettingsError

REPORT = """The deployment failed to start 3 times in a row. This may be due to a problem with its constructor or \
initial health check failing. See controller logs for details. Error:
ray::ServeReplica:mine:RewardReplica.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
  File "actors/rewards/python_reward.py", line 43, in __init__
    found: Any = getattr(importlib.import_module(module), attribute)
ModuleNotFoundError: No module named 'timm'

The above exception was the direct cause of the following exception:

ray::ServeReplica:mine:RewardReplica.initialize_and_get_metadata() (pid=1, ip=127.0.0.1)
  File "actors/rewards/python_reward.py", line 92, in _blaming
    raise RewardError(f"{self._what} {event} with {reason}: correct it") from error
"""


@pytest.mark.parametrize(
    ("last", "message", "kind"),
    [
        ("actors.rewards.errors.RewardError: rewards.mine.path=x:f cannot be loaded", "^rewards.mine.path", StartError),
        ("conf.errors.SettingsError: no SpatialScore at x", "^no SpatialScore at x$", StartError),
        ("RuntimeError: weights are damaged", "^RuntimeError: weights are damaged$", StartError),
        (ActorDiedError.BASE_ERROR_MSG, "^the replicas of mine were killed while they started", RuntimeError),
    ],
)
def test_what_a_constructor_raises_for_a_user_is_the_message_and_nothing_is_left(
    last: str, message: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed replicas are no mistake of the user: `submit.keep` repeats a job that ended with them."""
    deleted: list[str] = []

    def run(application: object, **options: object) -> None:
        raise RuntimeError("Deploying application mine failed: Failed to update the deployments ['RewardReplica'].")

    deployed = SimpleNamespace(deployments={"RewardReplica": SimpleNamespace(message=REPORT + last)})
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications={"mine": deployed}))
    monkeypatch.setattr(serve, "run", run)
    monkeypatch.setattr(serve, "delete", deleted.append)
    with pytest.raises(kind, match=message):
        run_application(cast(Any, None), "mine", None)
    assert deleted == ["mine"]


@pytest.mark.parametrize("late", [True, False])
def test_a_controller_that_was_restarted_is_not_taken_for_a_serve_without_http(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows its proxies only after a moment. A driver that was started again then ended with exit code 2."""
    states = [{}, {}, {"node": "HEALTHY"}] if late else [{}]
    monkeypatch.setattr(serve, "start", lambda **options: None)
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(proxies=states.pop(0) if states[1:] else states[0]))
    monkeypatch.setattr(serve_http, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(serve_http, "PROXY_WAIT_S", 30.0 if late else 0.05)
    if late:
        start_serve_http("127.0.0.1", 8000, "play")
        assert len(states) == 1
    else:
        with pytest.raises(SettingsError, match="play needs Ray Serve with HTTP"):
            start_serve_http("127.0.0.1", 8000, "play")
