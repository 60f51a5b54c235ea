"""The lines of the bench of `maspo-dist plan`, and what it measures of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from doubles.loop import make_config

from actors.bench.memory import HighestByRole
from actors.bench.plan import measured_cpu, plan_lines
from maspo_dist.models.size import KNOWN_SIZES
from maspo_dist.planning.accelerators import Accelerator
from maspo_dist.planning.forecast import Lengths, forecast_step
from maspo_dist.planning.placement import engine_memory, learner_memory

SIZE = KNOWN_SIZES["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"]
CPU = Accelerator(name="this CPU", flops=2e11, bytes_per_s=2e10, memory_bytes=32 * 10**9)
#: 8 responses of 12 tokens after prompts of 20.
STEP = {
    "time/step_s": 12.0,
    "time/generate_s": 4.0,
    "time/update_s": 6.0,
    "time/publish_s": 1.0,
    "rollout/response_tokens_mean": 12.0,
    "learner/tokens": 8 * 32.0,
}


def test_each_phase_and_process_is_compared_with_the_forecast_for_its_share_of_the_cpu() -> None:
    config = make_config(learner={"ranks": 2}, rollout={"workers": 2, "max_response_tokens": 64})
    slow = {**STEP, "time/step_s": 120.0, "time/update_s": 60.0}
    highest = {"ray::Learner": 2**30, "ray::RolloutActor": 2**31}
    *lines, largest = plan_lines("demo", config, SIZE, CPU, [STEP, slow, STEP], highest)
    share = replace(CPU, flops=1e11, bytes_per_s=1e10, memory_bytes=16 * 10**9)
    forecast = forecast_step(config, SIZE, share, Lengths(prompt_tokens=20, response_tokens=12))
    learner, engine = learner_memory(config, SIZE, "cpu"), engine_memory(config, SIZE, "cpu")
    assert [(line.case.partition(":")[0], line.value, line.unit, line.against) for line in lines] == [
        ("demo, generate", 4.0, "s", forecast.generate_s),
        ("demo, update", 6.0, "s", forecast.update_s),
        ("demo, publish", 1.0, "s", forecast.publish_s),
        ("demo, step", 12.0, "s", forecast.step_s),
        ("demo, memory per learner rank", 1024.0, "MiB", learner.total_bytes / 2**20),
        ("demo, memory per engine", 2048.0, "MiB", engine.total_bytes / 2**20),
    ]
    assert largest.value == max(max(line.ratio, 1 / line.ratio) for line in lines)


def test_the_cpu_of_this_machine_is_measured() -> None:
    cpu = measured_cpu()
    assert 1e9 < cpu.flops < 1e14
    assert 1e8 < cpu.bytes_per_s < 1e13
    assert cpu.memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_most_memory_of_a_process_is_kept_by_its_name(tmp_path: Path) -> None:
    # A name that no process of another test has.
    holder = tmp_path / "holder"
    holder.symlink_to(Path(sys.executable).resolve())
    code = "import time; held = bytearray(64 << 20); print(flush=True); time.sleep(60)"
    with subprocess.Popen([str(holder), "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        highest = HighestByRole(os.getpid(), (str(holder), "ray::Learner"))
        highest.look()
        process.kill()
    highest.look()
    assert 64 << 20 <= highest.bytes_by_role[str(holder)] < 256 << 20
    assert highest.bytes_by_role["ray::Learner"] == 0


def test_nothing_is_held_by_a_run_that_has_ended() -> None:
    with subprocess.Popen(["true"]) as process:
        highest = HighestByRole(process.pid, ("ray::Learner",))
        process.wait()
    highest.look()
    assert highest.bytes_by_role == {"ray::Learner": 0}
