"""Evaluation of a model on held-out problems, apart from training.

statistics.py  avg@k, pass@k, majority@k, bootstrap intervals
results.py     from samples to results.json and the table
folder.py      the output folder: one settings, samples appended, resumed
options.py     options of `maspo-dist eval` → configuration
presets.py     the paper's six benchmarks
console.py     what the user sees meanwhile
"""

from maspo_dist.evaluation.statistics import (
    avg_at_k,
    bootstrap_interval,
    bootstrap_intervals,
    majority_at_k,
    majority_estimates,
    pass_at_k,
    pass_estimates,
)

__all__ = [
    "avg_at_k",
    "bootstrap_interval",
    "bootstrap_intervals",
    "majority_at_k",
    "majority_estimates",
    "pass_at_k",
    "pass_estimates",
]
