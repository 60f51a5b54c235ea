"""What is under deploy/monitoring/ names metrics that a run serves; the dashboard is made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from actors.cli import app
from maspo_dist.runs.catalogue import EVENTS, LIVE_METRICS, METRICS
from maspo_dist.runs.folder import RunFolder

MONITORING = Path(__file__).parents[1] / "deploy/monitoring"
METRIC_OF = {metric.prometheus: metric for metric in (*METRICS, *LIVE_METRICS)}
#: A selector: the name of a metric, and its matchers.
SELECTOR = re.compile(r"\b(maspo_\w+|up)\b(?:\{([^}]*)\})?")


def read(name: str) -> Any:
    return yaml.safe_load((MONITORING / name).read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in read("alerts.yml")["groups"] for rule in group["rules"]]


def assert_known(expression: str) -> None:
    """Every metric of a query is in the catalogue, with the labels that are asked for; counters are only rates."""
    selectors = SELECTOR.findall(expression)
    assert selectors, expression
    for name, matchers in selectors:
        labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
        if name == "up":
            assert labels == ["job"]
            continue
        metric = METRIC_OF[name]
        assert set(labels) <= {"run", "job", *metric.labels}, f"{name} has no such labels: {labels}"
        rated = re.search(rf"(?:rate|increase)\({name}\b[^)]*\[", expression)
        assert bool(rated) == (metric.type == "counter"), expression
        for kind in re.findall(r'kind="(\w+)"', matchers):
            assert kind in EVENTS


def test_every_alert_asks_for_metrics_that_a_run_serves() -> None:
    for rule in rules():
        assert_known(rule["expr"])
        assert set(rule["labels"]) == {"severity"}
        assert rule["annotations"]["summary"].startswith("{{ $labels.run }}: ")


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [case for test in read("alerts_test.yml")["tests"] for case in test["alert_rule_test"]]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names
    for test in read("alerts_test.yml")["tests"]:
        for series in test["input_series"]:
            assert SELECTOR.fullmatch(series["series"].strip()), series
            name = series["series"].partition("{")[0]
            assert name == "up" or name in METRIC_OF


def test_prometheus_finds_runs_by_the_file_that_they_write() -> None:
    jobs = {job["job_name"]: job for job in read("prometheus.yml")["scrape_configs"]}
    assert jobs["maspo"]["honor_labels"] is True
    [found] = jobs["maspo"]["file_sd_configs"]
    [pattern] = found["files"]
    assert re.fullmatch(r"[^*]*(\*[^/]*)?\.json", pattern), "Prometheus takes a pattern in the last part only"
    assert RunFolder(Path(pattern).parent / "clip").discovery_path.match(pattern)
    assert read("prometheus.yml")["rule_files"] == ["alerts.yml"]


def test_the_prometheus_operator_finds_the_port_that_every_job_of_kuberay_serves() -> None:
    """The controller serves it, in the pod of the head."""
    monitor = read("podmonitor.yaml")
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"].keys() == {"selector", "podMetricsEndpoints"}
    assert monitor["spec"]["selector"] == {"matchLabels": {"ray.io/node-type": "head"}}
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint.keys() == {"portNumber", "honorLabels", "interval", "relabelings"}
    [relabeling] = endpoint["relabelings"]
    [of_pods] = {job for rule in rules() for job in re.findall(r'job="([^"]+)"', rule["expr"]) if job != "maspo"}
    assert relabeling == {"targetLabel": "job", "replacement": of_pods}
    runs = sorted(MONITORING.parent.glob("kuberay/*/run.yaml"))
    assert len(runs) == 3
    for path in runs:
        logging = yaml.safe_load(path.read_text())["logging"]
        assert (logging["prometheus_port"], logging["prometheus_host"]) == (endpoint["portNumber"], "0.0.0.0")


def test_the_dashboard_is_the_one_that_the_command_prints() -> None:
    printed = CliRunner().invoke(app, ["metrics", "--dashboard"])
    assert printed.exit_code == 0, printed.output
    assert printed.output == (MONITORING / "dashboard.json").read_text(), (
        "run: maspo-dist metrics --dashboard > deploy/monitoring/dashboard.json"
    )


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    every = [one for panel in panels for one in (panel, *panel.get("panels", ()))]
    assert len({panel["id"] for panel in every}) == len(every)
    queries = [target["expr"] for panel in every for target in panel.get("targets", ())]
    for query in queries:
        assert_known(query)
    assert {name for query in queries for name, _ in SELECTOR.findall(query)} == set(METRIC_OF)
    closed = [panel for panel in panels if panel["type"] == "row"]
    assert all(panel["collapsed"] and panel["panels"] for panel in closed)
