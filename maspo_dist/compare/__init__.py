"""Several variants of one configuration, each with several seeds, at equal samples.

run.py         every run once as a child process, then the report
options.py     options of `maspo-dist compare` → settings
plan.py        variants × seeds → runs
outcome.py     finished runs → figures, means over seeds, paired tests
page.py        compare.html
statistics.py  intervals, the exact sign-flip test, areas under curves
"""
