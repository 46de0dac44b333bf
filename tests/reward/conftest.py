"""A served SpatialScore and images for it, shared by the tests of the reward pool."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import asdict

import numpy as np
import pytest

from actors.spatialscore.calibration import CALIBRATION_FILE
from actors.workers.reward import start_pool
from conf.serving import ServingSettings
from tests.support.served_model import CALIBRATION, TOKEN_VARIABLE, ServedModel
from tests.support.tiny_reward import save_tiny_vlm, tiny_spatialscore


@pytest.fixture(scope="module")
def served(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedModel]:
    """Starts the pool of `ServedModel`."""
    from ray import serve

    folder = tmp_path_factory.mktemp("pool")
    save_tiny_vlm(folder / "vlm")
    tiny_spatialscore(folder / "vlm").save_pretrained(folder / "model")
    (folder / "model" / CALIBRATION_FILE).write_text(json.dumps(asdict(CALIBRATION)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = ServingSettings(min_replicas=2, max_replicas=2, http=True, port=port, token_variable=TOKEN_VARIABLE)
    serve.shutdown()  # an earlier test may have started Serve without HTTP, which cannot be changed
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TOKEN_VARIABLE, "token-of-the-test")
        pool = start_pool(settings, str(folder / "model"), "a run")
        yield ServedModel(pool, folder / "model", port, "token-of-the-test")
    pool.stop()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """uint8 [4, 64, 64, 3]."""
    return np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
