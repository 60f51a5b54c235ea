"""Evaluation of a model on held-out problems, apart from training.

options.py     options of `maspo-dist eval` to a configuration
presets.py     the paper's six benchmarks
folder.py      the output folder, in which an evaluation can be resumed
statistics.py  avg@k, pass@k, majority@n, bootstrap intervals
results.py     samples to results.json and the table
"""
