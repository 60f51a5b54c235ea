"""Broadcasts to real vLLM engines over gloo: whatever happens to an engine, each that serves has the right weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doubles.broadcast_trial import CASES
from doubles.live_run import ROOT

from actors.bench.models import random_qwen3
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.models.folder import save_model_folder

#: A repetition of all cases takes a minute: engines start, and hangs become known.
REPETITIONS = 20
#: Of the longest repetition of a case, with the start of an engine in it.
LONGEST_CASE_S = 120


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """134 MB in float32: several buckets."""
    folder = tmp_path_factory.mktemp("broadcasts") / "model"
    save_model_folder(folder, random_qwen3(vocabulary=8192, layers=8, width=512), make_tokenizer())
    return folder


@pytest.mark.parametrize(
    ("workers", "tensor_parallel"),
    [(1, 1), (2, 1), (1, 2), (2, 2)],
    ids=["1 engine", "2 engines", "1 engine of 2 ranks", "2 engines of 2 ranks"],
)
def test_every_engine_that_serves_has_the_right_weights(model: Path, workers: int, tensor_parallel: int) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-m", "doubles.broadcast_trial", str(model)]
    done = subprocess.run(
        [*command, str(workers), str(tensor_parallel), str(REPETITIONS)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=REPETITIONS * len(CASES) * LONGEST_CASE_S,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["groups"] > REPETITIONS
    # A strike before the broadcast may be noticed before it.
    assert found["events"]["broadcast_failed"] >= 2 * REPETITIONS
    assert max(found["seconds"].values()) < LONGEST_CASE_S
