"""`maspo-dist metrics --dashboard`: a dashboard for Grafana, with a panel for every metric of the catalogue."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from maspo_dist.runs.catalogue import LIVE_METRICS, METRICS, Metric

#: Units of the catalogue as Grafana calls them; others are plain numbers.
_UNITS = {"seconds": "s", "tokens/s": "cps", "bytes": "bytes", "seconds since 1970": "dateTimeFromNow"}
_SHARES = ("share", "weight", "probability")
#: The panels above the rows: what tells whether a run is well.
_OVERVIEW = (
    "reward/mean",
    "eval/<set>/avg@<k>",
    "run/step",
    "last_step/timestamp_s",
    "rollout/tokens_per_s",
    "learner/tokens_per_s",
    "time/step_s",
    "workers/<state>",
    "policy/age_max",
    "groups/in_flight",
    "reward/unverifiable_share",
    "events/<kind>",
)
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _WIDTH, _HEIGHT = 4, 6, 7


def dashboard() -> dict[str, Any]:
    """Variables choose the data source and the runs. Rows below the overview are closed."""
    metrics = {metric.name: metric for metric in (*METRICS, *LIVE_METRICS)}
    panels = list(_placed([metrics[name] for name in _OVERVIEW], 0))
    top = _below(panels)
    for prefix, group in groupby(sorted(metrics.values(), key=_prefix), _prefix):
        inside = list(_placed(list(group), top + 1))
        row = {"type": "row", "title": prefix, "collapsed": True, "panels": inside}
        panels.append({**row, "gridPos": {"h": 1, "w": _COLUMNS * _WIDTH, "x": 0, "y": top}})
        top += 1
    every = [one for panel in panels for one in (panel, *panel.get("panels", ()))]
    for number, panel in enumerate(every, start=1):
        panel["id"] = number
    return {
        "title": "MASPO runs",
        "uid": "maspo-runs",
        "schemaVersion": 39,
        "tags": ["maspo"],
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "templating": {"list": [_SOURCES, _RUNS]},
        "panels": panels,
    }


_SOURCES = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Data source"}
_RUNS = {
    "name": "run",
    "type": "query",
    "label": "Run",
    "datasource": _SOURCE,
    "query": {"query": "label_values(maspo_run_step, run)", "refId": "runs"},
    "refresh": 2,
    "multi": True,
    "includeAll": True,
}


def _placed(metrics: Sequence[Metric], top: int) -> Iterator[dict[str, Any]]:
    """Panels from left to right, from row `top` of the grid on."""
    for number, metric in enumerate(metrics):
        row, column = divmod(number, _COLUMNS)
        place = {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": top + row * _HEIGHT}
        yield {**_panel(metric), "gridPos": place}


def _below(panels: Sequence[dict[str, Any]]) -> int:
    bottom: int = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    return bottom


def _panel(metric: Metric) -> dict[str, Any]:
    is_counter = metric.type == "counter"
    selected = f'{metric.prometheus}{{run=~"$run"}}'
    unit = _UNITS.get(metric.unit, "percentunit" if metric.unit.startswith(_SHARES) else "short")
    # Grafana takes milliseconds.
    scaled = f"{selected} * 1000" if metric.unit == "seconds since 1970" else selected
    legend = " ".join(f"{{{{{label}}}}}" for label in ("run", *metric.labels))
    return {
        "type": "timeseries" if metric.unit != "seconds since 1970" else "stat",
        "title": f"{metric.name}, per second" if is_counter else metric.name,
        "description": f"{metric.meaning} ({metric.unit})",
        "datasource": _SOURCE,
        "targets": [
            {
                "refId": "A",
                "expr": f"rate({selected}[$__rate_interval])" if is_counter else scaled,
                "legendFormat": legend,
            }
        ],
        "fieldConfig": {"defaults": {"unit": "cps" if is_counter else unit}, "overrides": []},
    }


def _prefix(metric: Metric) -> str:
    return metric.name.partition("/")[0]
