"""report.html: one run or several, in one file that needs no other file.

runs.py          reads a run folder once
charts.py        SVG: curves, stacked bars, heat maps
curves.py        which metrics are drawn, and in which order
trust_region.py  tables and strips of the trust region
page.py          the values of the page, and Jinja2
templates/       the pages, their macros and their style sheet
"""

from maspo_dist.views.report.page import write_report

__all__ = ["write_report"]
