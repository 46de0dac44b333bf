"""The command for a GPU runs here in its tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.gpu_reward import main


@pytest.mark.slow
def test_the_gpu_bench_trains_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--size", "tiny", "--batch", "2", "--steps", "1", "--words", "12", "--folder", str(tmp_path)]
    main(options)
    main(options)  # the written checkpoint is read again
    told = capsys.readouterr().out
    assert told.count("pairs/s") == 2 and told.count("images/s") == 2
