"""report.html: one run or several, in one file that needs nothing else.

runs.py      what a run folder holds, read once
scale.py     numbers to pixels, and round numbers on an axis
charts.py    SVG: lines, stacked bars, heat maps
markup.py    text that came from outside, made safe
curves.py    the curves, in which order
trust_region.py  what the trust region did
style.py     the style sheet
page.py      the page
comparison.py  the page of `maspo-dist compare`: means over seeds and paired tests
"""

from maspo_dist.views.report.page import write_report

__all__ = ["write_report"]
