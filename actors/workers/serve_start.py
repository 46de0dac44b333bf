"""Starts an application of Ray Serve, and says in one message why its replicas do not start."""

from __future__ import annotations

import re
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from conf.errors import UserError

_RAISED = re.compile(r"^(?:[\w.]+\.)?(?:UserError|SettingsError|RewardError|InputError): (.+)$", re.MULTILINE)
"""What the constructor of a replica raised for a user, in the traceback that Serve reports."""
_LOST = "died unexpectedly"
"""Ray's words for a process that was killed, or lost with its node."""
_MAX_REASON = 500


class StartError(UserError):
    """The replicas of an application do not start."""


def run_application(application: serve.Application, name: str, route_prefix: str | None) -> DeploymentHandle[Any]:
    """Runs an application and waits until it answers.

    Raises StartError, after the application was removed, if its replicas fail. The message is that of the UserError
    which a constructor raised, or the last line of Serve's report. `serve.run` itself leaves the reason out.
    Raises RuntimeError instead if replicas were killed while they started: the same command may succeed later.
    """
    try:
        return serve.run(application, name=name, route_prefix=route_prefix)
    except RuntimeError as error:
        failed = serve.status().applications.get(name)
        reports = [each.message for each in failed.deployments.values() if each.message] if failed else []
        serve.delete(name)
        report = "\n".join([str(error), *reports]).strip()
        raised = _RAISED.findall(report)
        if not raised and _LOST in report:
            raise RuntimeError(f"the replicas of {name} were killed while they started: {report}") from error
        raise StartError((raised or report.splitlines())[-1].strip()[:_MAX_REASON]) from error
