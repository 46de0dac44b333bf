"""The benchmark for a GPU runs on a CPU in its tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.gpu_reward import main


@pytest.mark.slow
def test_the_gpu_bench_trains_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "tiny", "--batch", "2", "--steps", "1", "--words", "12", "--folder", str(tmp_path)]
    main(options)
    main(options)  # reads the checkpoint that the first call wrote
    output = capsys.readouterr().out
    assert output.count("pairs/s") == 2
    assert output.count("images/s") == 2
