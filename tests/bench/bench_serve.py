"""The reward pool under load: time until it grows from one replica to three, images per second, time to shrink.

python -m tests.bench.bench_serve
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
import torch

from actors.spatialscore import SpatialScoreConfig, build
from actors.workers.reward import RewardPool, start_pool
from conf.serving import ServingSettings
from pipelines.scenes import checkpoints_dir

CALLERS, IMAGES, MAX_REPLICAS = 16, 24, 3
LOAD_S, TIMEOUT_S = 40.0, 180.0


def main() -> None:
    """Prints the number of replicas and calls over time."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model = str(Path(folder) / "model")
        build(SpatialScoreConfig(model=str(checkpoints_dir("qwen2_5_vl")), pixels=4096)).save_pretrained(model)
        settings = ServingSettings(
            min_replicas=1, max_replicas=MAX_REPLICAS, target_ongoing_requests=2, upscale_delay_s=2, downscale_delay_s=5
        )
        pool = start_pool(settings, model, "bench")
        try:
            asyncio.run(_load_and_rest(pool))
        finally:
            pool.stop()
            ray.shutdown()


async def _load_and_rest(pool: RewardPool) -> None:
    images = ray.put(np.random.default_rng(0).integers(0, 256, (IMAGES, 64, 64, 3), dtype=np.uint8))
    prompts, start, load_ended = ("a red circle left of a blue square",) * IMAGES, time.monotonic(), asyncio.Event()
    done = 0

    async def caller() -> None:
        nonlocal done
        while not load_ended.is_set():
            await pool.score(images, prompts)
            done += 1

    print(f"reward pool, {CALLERS} callers with {IMAGES} images a call; replicas {pool.replicas()}")
    callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    grown = await _until(pool, MAX_REPLICAS, start)
    print(f"  load on: {MAX_REPLICAS} replicas after {grown:.1f} s, {done} calls answered")
    before, since = done, time.monotonic()
    await asyncio.sleep(LOAD_S)
    print(f"  {(done - before) * IMAGES / (time.monotonic() - since):.0f} images/s with {MAX_REPLICAS} replicas")
    load_ended.set()
    await asyncio.gather(*callers)
    shrunk = await _until(pool, 1, time.monotonic())
    print(f"  load off: 1 replica after {shrunk:.1f} s; retried calls: {pool.retries}, lost: 0 of {done}")


async def _until(pool: RewardPool, replicas: int, start: float) -> float:
    """Seconds from `start` until this number of replicas runs. Raises TimeoutError."""
    while (passed := time.monotonic() - start) < TIMEOUT_S:
        if await asyncio.to_thread(pool.replicas) == replicas:
            return passed
        await asyncio.sleep(0.2)
    raise TimeoutError(f"{pool.replicas()} replicas after {TIMEOUT_S:.0f} s, wanted {replicas}")


if __name__ == "__main__":
    main()
