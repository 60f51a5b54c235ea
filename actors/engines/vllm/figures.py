"""Keeps five of vLLM's statistics."""

from __future__ import annotations

from typing import Any

from vllm.v1.metrics.loggers import PrometheusStatLogger
from vllm.v1.metrics.stats import IterationStats, SchedulerStats

from maspo_dist.runs.live import EngineFigures


class FiguresLogger(PrometheusStatLogger):
    """Stands in the place of vLLM's own Prometheus logger, which vLLM would add and whose 287 series cost time."""

    def __init__(self, vllm_config: object, engine_indexes: list[int] | None = None) -> None:
        self.figures = EngineFigures()

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Called by vLLM after each iteration."""
        before = self.figures
        running, waiting, share = before.requests_running, before.requests_waiting, before.kv_cache_share
        tokens, preemptions = before.generated_tokens, before.preemptions
        if scheduler_stats is not None:
            running = scheduler_stats.num_running_reqs
            waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            share = scheduler_stats.kv_cache_usage
        if iteration_stats is not None:
            tokens += iteration_stats.num_generation_tokens
            preemptions += iteration_stats.num_preempted_reqs
        self.figures = EngineFigures(
            requests_running=running,
            requests_waiting=waiting,
            kv_cache_share=share,
            generated_tokens=tokens,
            preemptions=preemptions,
        )

    def log(self) -> None: ...

    def log_engine_initialized(self) -> None: ...

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None: ...

    def record_admission_rejection(self, reason: str) -> None: ...
