"""The proof of weights on SmolLM2's shape in bfloat16: no false alarm, and no stale layer goes unseen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from doubles.live_run import ROOT

from actors.bench.models import random_smollm2
from actors.engines.settings import engine_environment
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.models.folder import save_model_folder

PUBLISHES = 200


def test_two_hundred_publishes_raise_no_alarm_and_a_stale_layer_is_named(tmp_path: Path) -> None:
    save_model_folder(tmp_path / "model", random_smollm2().bfloat16(), make_tokenizer())
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        **engine_environment("cpu", threads=os.cpu_count() or 1),
    }
    command = [sys.executable, "-m", "doubles.proof_trial", str(tmp_path / "model"), "bfloat16", str(PUBLISHES)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["publishes"] == PUBLISHES
    said = found["said"]
    assert len(said) == 4, "a stale parameter was not seen"
    for case, sentence in said.items():
        assert sentence.startswith(f"rollout worker 0 does not hold policy version {PUBLISHES}: "), case
    for case in ("a layer at the previous version", "a layer at the start version"):
        assert "published values of model.layers.15.self_attn.qkv_proj.weight, " in said[case]
    assert "published values of model.layers.15.self_attn.o_proj.weight; " in said["a matrix at the previous version"]
    assert "published values of model.embed_tokens.weight" in said["the embeddings at the previous version"]
