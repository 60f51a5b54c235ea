"""The checks of `maspo-dist bench gpu` that start engines and runs of their own."""

from __future__ import annotations

from doubles.gpu_bench import tiny_lines

from actors.bench.gpu.setting import TINY


def test_tensor_parallelism_and_runs_with_a_killed_worker_pass_on_the_cpu() -> None:
    by_name = tiny_lines("tensor-parallel", "adapter", "turns", "run")
    assert list(by_name) == ["tensor-parallel", "adapter", "turns", "run", "all"]
    assert by_name["tensor-parallel"]["parameters_seen"] > 0
    assert by_name["tensor-parallel"]["responses_over_versions"] > 0
    assert by_name["adapter"]["parameters_stale"] == 0
    assert by_name["turns"]["turns_steps"] == TINY.run_steps
    assert by_name["run"]["age_2_workers_recovered"] == 1
