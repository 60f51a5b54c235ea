"""`maspo-dist status RUN`: what a run folder says of its run, live or ended."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import LiveStatus, read_live
from maspo_dist.runs.progress import Progress, progress_of
from maspo_dist.views.console import outcome_table
from maspo_dist.views.format import format_duration, format_number

_EVENTS_SHOWN = 10


def render_status(folder: RunFolder) -> RenderableType:
    """Step, scores, workers and what is waited for while it runs, last metrics, group counts and last events.

    Raises DataError for a damaged file.
    """
    progress = progress_of(folder.read_metrics(), _max_steps(folder))
    parts: list[RenderableType] = [_headline(folder, progress), outcome_table(progress)]
    live = read_live(folder.live_path) if folder.in_use else None
    if live is not None:
        parts += [_standing_line(live), _workers_table(live)]
    if progress.metrics:
        parts.append(_metrics_table(progress))
    counts = folder.ledger_counts()
    if counts:
        parts.append(_ledger_table(counts))
    events = deque(folder.read_events(), maxlen=_EVENTS_SHOWN)
    if events:
        parts.append(_events_table(events))
    return Group(*parts)


def _max_steps(folder: RunFolder) -> int:
    """0 where config.yaml does not say."""
    run = folder.read_config().get("run")
    max_steps = run.get("max_steps") if isinstance(run, dict) else None
    return max_steps if isinstance(max_steps, int) else 0


def _headline(folder: RunFolder, progress: Progress) -> Text:
    state = "running" if folder.in_use else "not running"
    text = Text.assemble((folder.name, "bold"), f": {state}, step {progress.step} of {progress.max_steps}")
    if folder.in_use and progress.seconds_left is not None:
        text.append(f", about {format_duration(progress.seconds_left)} left")
    return text


def _standing_line(live: LiveStatus) -> Text:
    """What goes on now, where every group is that was admitted, and the oldest thing that is waited for."""
    standing = live.standing
    ended = dict(standing.outcomes)
    admitted = ended.pop("admitted", 0)
    places = {
        **ended,
        "in the batch": admitted - sum(ended.values()) - standing.groups_finished - standing.groups_in_flight,
        "finished": standing.groups_finished,
        "in flight": standing.groups_in_flight,
    }
    text = Text.assemble(("now ", "dim"), standing.phase, ("   policy version ", "dim"), str(standing.policy_version))
    text.append(f"\ngroups admitted by this process {admitted}: ", "dim")
    text.append(", ".join(f"{place} {groups}" for place, groups in places.items()))
    if live.waits:
        what, seconds = live.waits[0]
        text.append(f"\nwaits {format_duration(seconds)} for {what}")
    return text


def _workers_table(live: LiveStatus) -> Table:
    table = Table("worker", "state", "policy version", "age", "groups in flight", "restarts", title="rollout workers")
    table.title_justify = "left"
    for worker in live.workers:
        has_weights = worker.version >= 0
        table.add_row(
            worker.name,
            worker.state,
            str(worker.version) if has_weights else "–",
            str(live.standing.policy_version - worker.version) if has_weights else "–",
            str(worker.groups_in_flight),
            str(worker.restarts),
        )
    return table


def _metrics_table(progress: Progress) -> Table:
    """One row a group, so that the whole step fits a screen; the trust region's detail is for the report."""
    table = Table(title=f"metrics of step {progress.step}", title_justify="left", show_header=False)
    groups: dict[str, list[str]] = {}
    for name, value in progress.metrics.items():
        group, _, rest = name.partition("/")
        if group != "trust_region":
            groups.setdefault(group, []).append(f"{rest} {format_number(value)}")
    for group, entries in groups.items():
        table.add_row(group, ", ".join(entries))
    return table


def _ledger_table(counts: Counter[tuple[str, str]]) -> Table:
    table = Table(title="prompt groups", title_justify="left", show_header=False)
    for (outcome, reason), groups in counts.most_common():
        table.add_row(outcome, Text(reason), str(groups))
    return table


def _events_table(events: Iterable[Mapping[str, Any]]) -> Table:
    table = Table(title="last events", title_justify="left", show_header=False)
    for event in events:
        at = datetime.fromtimestamp(float(event["time"])).strftime("%m-%d %H:%M:%S")
        table.add_row(at, str(event["kind"]), Text(str(event["message"])))
    return table
