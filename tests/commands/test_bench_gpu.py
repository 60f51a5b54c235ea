"""`maspo-dist bench gpu` runs its checks with real engines, so that the checks themselves are known to work.

Tensor parallelism, adapters and whole runs start engines of their own: tests/e2e/endurance/test_bench_gpu_runs.py has
them.
"""

from __future__ import annotations

from doubles.gpu_bench import tiny_lines

from actors.bench.gpu.checks import CHECKS

ELSEWHERE = ("tensor-parallel", "adapter", "turns", "run")


def test_the_checks_pass_on_the_cpu_with_tiny_models() -> None:
    checks = [name for name in CHECKS if name not in ELSEWHERE]
    by_name = tiny_lines(*checks)
    assert list(by_name) == [*checks, "all"]
    assert by_name["all"]["left_out"] == []
    assert by_name["publish"]["parameters_seen"] > 0
    assert by_name["publish"]["responses_over_versions"] > 0
    assert by_name["zero"]["resumed_differences"] == 0
    assert 0 < by_name["zero"]["sequence_parallel_distance"] < 1e-4
    assert "rank 0 of first" in by_name["collective"]["failure"]
