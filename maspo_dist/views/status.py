"""`maspo-dist status RUN`: the state of a run, live or ended, from its folder."""

from collections import deque
from collections.abc import Iterable
from datetime import datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from maspo_dist.runs.folder import RunFolder
from maspo_dist.runs.live import LiveStatus, read_live
from maspo_dist.runs.progress import Progress
from maspo_dist.views.console import outcome_table
from maspo_dist.views.format import MISSING, format_duration, format_number

_EVENTS_SHOWN = 10


def render_status(folder: RunFolder) -> RenderableType:
    """Step, scores, workers and waits, last metrics, groups and events. Raises DataError for a damaged file."""
    progress = folder.read_progress()
    parts: list[RenderableType] = [_headline(folder, progress), outcome_table(progress)]
    live = read_live(folder.live_path) if folder.in_use else None
    if live is not None:
        parts += [_standing(live), _workers_table(live)]
    parts += _table(f"metrics of step {progress.step}", _metrics_rows(progress))
    parts += _table("prompt groups", ((*key, str(groups)) for key, groups in folder.ledger_counts().most_common()))
    events = deque(folder.read_events(), maxlen=_EVENTS_SHOWN)
    times = [datetime.fromtimestamp(float(event["time"])).strftime("%m-%d %H:%M:%S") for event in events]
    parts += _table("last events", ((at, e["kind"], e["message"]) for at, e in zip(times, events, strict=True)))
    return Group(*parts)


def _headline(folder: RunFolder, progress: Progress) -> Text:
    state = "running" if folder.in_use else "not running"
    text = Text.assemble((folder.name, "bold"), f": {state}, step {progress.step} of {progress.max_steps}")
    if folder.in_use and progress.seconds_left is not None:
        text.append(f", about {format_duration(progress.seconds_left)} left")
    return text


def _standing(live: LiveStatus) -> Text:
    """What the loop does now, where every admitted group is, and the oldest wait."""
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
    if live.metrics_url:
        text.append(f"\nmetrics {live.metrics_url}")
    if live.waits:
        what, seconds = live.waits[0]
        text.append(f"\nwaits {format_duration(seconds)} for {what}")
    return text


def _workers_table(live: LiveStatus) -> Table:
    table = Table("worker", "state", "policy version", "age", "groups in flight", "restarts", title="rollout workers")
    table.title_justify = "left"
    for worker in live.workers:
        version, age = worker.version, live.standing.policy_version - worker.version
        versions = (str(version), str(age)) if version >= 0 else (MISSING, MISSING)
        table.add_row(worker.name, worker.state, *versions, str(worker.groups_in_flight), str(worker.restarts))
    return table


def _metrics_rows(progress: Progress) -> Iterable[tuple[str, str]]:
    """One row per group, so that the whole step fits a screen; the trust region's detail is for the report."""
    groups: dict[str, list[str]] = {}
    for name, value in progress.metrics.items():
        group, _, rest = name.partition("/")
        if group != "trust_region":
            groups.setdefault(group, []).append(f"{rest} {format_number(value)}")
    return ((group, ", ".join(entries)) for group, entries in groups.items())


def _table(title: str, rows: Iterable[tuple[str, ...]]) -> list[Table]:
    """A table of plain text, or nothing without rows."""
    table = Table(title=title, title_justify="left", show_header=False)
    for row in rows:
        table.add_row(*map(Text, row))
    return [table] if table.row_count else []
