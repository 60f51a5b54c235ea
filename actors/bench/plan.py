"""What `maspo-dist plan` predicts, against short runs on this CPU: seconds per phase, memory per process.

The formulas are those for GPUs. The figures that a table has for a GPU are measured for this CPU first. The
lengths of prompts and responses are taken from the run.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import torch
from transformers import GenerationConfig

from actors.bench.lines import BenchLine, compare
from actors.bench.memory import HighestByRole
from actors.bench.models import random_smollm2
from maspo_dist.config import TrainConfig, load_config
from maspo_dist.demo.files import DemoFiles, make_demo
from maspo_dist.demo.model import make_tokenizer
from maspo_dist.errors import DeadlineError, MaspoError
from maspo_dist.models.facts import read_model_facts
from maspo_dist.models.folder import save_model_folder
from maspo_dist.models.size import ModelSize
from maspo_dist.planning.accelerators import Accelerator
from maspo_dist.planning.forecast import Lengths, forecast_step
from maspo_dist.planning.placement import engine_memory, learner_memory
from maspo_dist.reward.pool.lifetime import kill_tree
from maspo_dist.runs.folder import RunFolder

_CONFIG = Path("configs/local_smoke.yaml")
#: Steps that warm up; the median of the others counts.
_WARM_UP = 1
_RUN_S, _POLL_S = 900.0, 0.2
#: How the names begin that Ray gives to the processes whose memory is predicted.
_LEARNER, _ENGINE = "ray::Learner", "ray::RolloutActor"
#: Width of the matrix of the probe: 64 MiB, more than caches hold.
_PROBE_WIDTH = 4096
_PROBE_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A run of the demo's data, with as many learner ranks as engines, so that each has an equal share of this CPU."""

    name: str
    steps: int
    overrides: tuple[str, ...] = ()


_DEMO = _Case(name="demo", steps=4, overrides=("learner.micro_batch_tokens=2048",))
_SMOLLM2 = _Case(
    name="SmolLM2-135M's shape",
    steps=3,
    overrides=(
        "rollout.workers=1",
        "rollout.group_size=4",
        "rollout.prompts_per_step=4",
        "rollout.max_response_tokens=64",
        "rollout.engine.max_model_len=256",
        "algorithm.mini_batches=2",
        "learner.ranks=1",
        "learner.micro_batch_tokens=512",
        "learner.lr=1e-6",
        "learner.threads=null",
    ),
)


def run() -> Iterator[BenchLine]:
    """Per case, lines of seconds and MiB, measured against predicted, and the largest factor between the two.

    Takes about four minutes on two cores.
    """
    demo = make_demo()
    cpu = measured_cpu()
    with TemporaryDirectory() as name:
        folder = Path(name)
        _save_smollm2(folder / "smollm2")
        for case, model in ((_DEMO, demo.model), (_SMOLLM2, folder / "smollm2")):
            overrides = _overrides(case, demo, model, folder)
            config = load_config(_CONFIG, overrides)
            highest = _train(overrides)
            steps = [row for row in RunFolder(folder / config.run.name).read_metrics() if row["step"] > _WARM_UP]
            yield from plan_lines(case.name, config, read_model_facts(config.model).size, cpu, steps, highest)


def measured_cpu() -> Accelerator:
    """This CPU: the float32 operations and bytes per second that torch reaches on all cores, and its memory."""
    torch.set_num_threads(os.cpu_count() or 1)
    matrix = torch.ones(_PROBE_WIDTH, _PROBE_WIDTH)
    narrow, column = torch.ones(_PROBE_WIDTH, _PROBE_WIDTH // 4), torch.ones(_PROBE_WIDTH)
    product_s, pass_s = [], []
    for _ in range(_PROBE_ROUNDS):
        started_s = time.perf_counter()
        torch.mm(matrix, narrow)
        product_s.append(time.perf_counter() - started_s)
        started_s = time.perf_counter()
        torch.mv(matrix, column)
        pass_s.append(time.perf_counter() - started_s)
    return Accelerator(
        name="this CPU",
        flops=2 * matrix.numel() * narrow.shape[1] / min(product_s),
        bytes_per_s=matrix.element_size() * matrix.numel() / min(pass_s),
        memory_bytes=psutil.virtual_memory().total,
    )


def plan_lines(
    name: str,
    config: TrainConfig,
    size: ModelSize,
    cpu: Accelerator,
    steps: Sequence[Mapping[str, float]],
    highest: Mapping[str, int],
) -> Iterator[BenchLine]:
    """The lines of one run: `steps` are rows of its metrics, `highest` the bytes that its processes held at most."""

    def median(metric: str) -> float:
        return statistics.median(step[metric] for step in steps)

    processes = config.learner.ranks
    share = Accelerator(
        name=cpu.name,
        flops=cpu.flops / processes,
        bytes_per_s=cpu.bytes_per_s / processes,
        memory_bytes=cpu.memory_bytes // processes,
    )
    response_tokens = median("rollout/response_tokens_mean")
    responses = config.rollout.prompts_per_step * config.rollout.group_size
    lengths = Lengths(
        prompt_tokens=round(median("learner/tokens") / responses - response_tokens),
        response_tokens=round(response_tokens),
    )
    forecast = forecast_step(config, size, share, lengths)
    lines = [
        compare("plan", f"{name}, {phase}: measured against predicted", median(f"time/{phase}_s"), "s", predicted_s)
        for phase, predicted_s in (
            ("generate", forecast.generate_s),
            ("update", forecast.update_s),
            ("publish", forecast.publish_s),
            ("step", forecast.step_s),
        )
    ]
    for process, role, memory in (
        ("learner rank", _LEARNER, learner_memory(config, size, "cpu")),
        ("engine", _ENGINE, engine_memory(config, size, "cpu")),
    ):
        case = f"{name}, memory per {process}: measured against predicted"
        lines.append(compare("plan", case, highest[role] / 2**20, "MiB", memory.total_bytes / 2**20))
    yield from lines
    largest = max(max(line.ratio, 1 / line.ratio) for line in lines)
    yield compare("plan", f"{name}: largest factor between measured and predicted", largest, "times", 1.0)


def _save_smollm2(folder: Path) -> None:
    """A model of SmolLM2-135M's shape with random weights, and the tokenizer of the demo."""
    tokenizer, model = make_tokenizer(), random_smollm2()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model.config.update({"bos_token_id": None, **ends})
    model.generation_config = GenerationConfig(**ends)
    save_model_folder(folder, model, tokenizer)


def _overrides(case: _Case, demo: DemoFiles, model: Path, folder: Path) -> list[str]:
    return [
        f"run.dir={folder}",
        f"run.name=steps-{case.steps}",
        f"run.max_steps={case.steps}",
        f"model.path={model}",
        f"data.train=[{demo.train}]",
        "data.eval={}",
        # All groups are trained, as the forecast assumes.
        "algorithm.dynamic_sampling.zero_variance=keep",
        "evaluation.every=null",
        "checkpoint.every=null",
        *case.overrides,
    ]


def _train(overrides: Sequence[str]) -> Mapping[str, int]:
    """A run to its end; the bytes that a process of each role held at most."""
    command = [sys.executable, "-m", "actors.cli", "train", str(_CONFIG), *overrides]
    run = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    highest = HighestByRole(run.pid, (_LEARNER, _ENGINE))
    deadline_s = time.monotonic() + _RUN_S
    try:
        while run.poll() is None:
            if time.monotonic() > deadline_s:
                raise DeadlineError(f"the run did not end within {_RUN_S:g} s")
            highest.look()
            time.sleep(_POLL_S)
    finally:
        kill_tree(run.pid)
        run.wait()
    if run.returncode != 0:
        raise MaspoError(f"the run ended with exit code {run.returncode}")
    return highest.bytes_by_role
