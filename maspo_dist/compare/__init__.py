"""Several variants of one configuration, each with several seeds, at equal samples.

run.py         every run once, in child processes, then the report
options.py     options of `maspo-dist compare` → settings
plan.py        variants × seeds → runs, and grids × tuning seeds → tuning runs
tuning.py      finished tuning runs → the values of each variant
earlier.py     results.json of an earlier comparison → runs that need no training
outcome.py     finished runs → figures, means over seeds, paired tests
route.py       the share of the rare route, where the task names it
results.py     results.json
tables.py      tables for the console and the page
page.py        compare.html
markdown.py    the table of results.json in Markdown, for a README
lane.py        a child process that trains one run after another
statistics.py  intervals, the exact sign-flip test, Holm's correction, areas under curves
"""
