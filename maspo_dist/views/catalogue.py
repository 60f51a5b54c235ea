"""`maspo-dist metrics`: the catalogue of metrics and events as tables."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from maspo_dist.runs.catalogue import EVENTS, LIVE_METRICS, METRICS, PLACEHOLDERS, Metric


def catalogue_tables() -> Group:
    """One table of metrics per prefix, then the placeholders of their names, then the kinds of event."""
    tables = []
    for prefix, metrics in groupby(METRICS, _prefix):
        rows = [(one.name.removeprefix(f"{prefix}/"), one.type, one.unit, one.meaning) for one in metrics]
        tables.append(_table(f"{prefix}/…", rows))
    live = [(one.name, one.type, one.unit, one.meaning) for one in LIVE_METRICS]
    tables.append(_table("only for Prometheus", live))
    tables.append(_table("placeholders", list(PLACEHOLDERS.items())))
    tables.append(_table("events", list(EVENTS.items())))
    return Group(*tables)


def _prefix(metric: Metric) -> str:
    """Everything before the last slash if it contains a placeholder, such as `trust_region/<sign>/<bucket>`; else the
    first word, such as `reward`.
    """
    first, _, rest = metric.name.partition("/")
    fixed = rest.rpartition("/")[0]
    return f"{first}/{fixed}" if ">" in fixed else first


def _table(title: str, rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE, show_header=False)
    for _ in rows[0]:
        table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
