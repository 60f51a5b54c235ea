"""Several variants of one configuration, each with several seeds, at equal samples.

run.py         every run once, then the report
options.py     options of `maspo-dist compare` → settings
plan.py        variants × seeds → runs
processes.py   runs as child processes, which end with this one
outcome.py     finished runs → figures, means over seeds, paired tests
statistics.py  intervals, the exact sign-flip test, areas under curves
"""
