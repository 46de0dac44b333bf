"""One evaluated run for all tests of the report."""

from __future__ import annotations

import pytest

from tests.support.evaluated_run import EvaluatedRun, write_logs


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedRun:
    """An evaluated run with the logs of the earlier stages."""
    evaluated = EvaluatedRun(tmp_path_factory.mktemp("run"))
    write_logs(evaluated.paths)
    return evaluated
