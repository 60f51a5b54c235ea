"""The page: headline, curves, trust region, samples, groups, events, configuration."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from maspo_dist.errors import ConfigError
from maspo_dist.runs.jsonl import replace_text
from maspo_dist.views.format import format_change, format_duration, format_number, format_score
from maspo_dist.views.report.curves import draw_sections
from maspo_dist.views.report.runs import EMPTY, Run, config_differences, read_run
from maspo_dist.views.report.trust_region import regime_of, trust_region_of

TEMPLATES = Path(__file__).with_name("templates")

#: Control characters but tab and newline, and lone surrogates: a page cannot hold them.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")

_SAMPLES_SHOWN = 6


def write_report(run_folders: Sequence[Path], out: Path) -> None:
    """Writes one page over one run or several. Raises ConfigError without a run, DataError for a damaged file."""
    if not run_folders:
        raise ConfigError("report: no run folder given; name at least one, such as runs/local-smoke")
    runs = [read_run(Path(folder)) for folder in run_folders]
    values = {
        "title": ", ".join(run.name for run in runs),
        "runs": runs,
        "facts": _facts(runs[0]),
        "sets": list(dict.fromkeys(name for run in runs for name in run.progress.scores)),
        "sections": draw_sections(runs),
        "regime_of": regime_of,
        "trust_region_of": trust_region_of,
        "shown_samples": _shown_samples,
        "sample_facts": _sample_facts,
        "event_rows": _event_rows,
        "differences": config_differences(runs),
    }
    replace_text(out, render_page(TEMPLATES / "report.html", values))


def _facts(run: Run) -> str:
    """One line: loss, model, steps, time, seed."""
    seconds = run.series.get("time/step_s", EMPTY).finite
    parts = [
        str(run.config.get("algorithm.loss.kind", "")).upper(),
        Path(str(run.config.get("model.path", ""))).name,
        f"{run.progress.step} of {run.max_steps} steps",
        f"{format_duration(float(seconds.sum()))} in steps" if seconds.size and run.every == 1 else "",
        f"about {format_duration(float(seconds.mean()) * run.progress.step)} in steps" if run.every > 1 else "",
        f"1 of {run.every} steps is drawn" if run.every > 1 else "",
        f"seed {run.config['run.seed']}" if "run.seed" in run.config else "",
    ]
    return " · ".join(part for part in parts if part)


def _shown_samples(run: Run) -> Iterator[tuple[int, list[Mapping[str, Any]]]]:
    """(step, some rows): the last sampled step, then the first; the statuses of a step take turns."""
    shown = _SAMPLES_SHOWN
    for step in sorted({int(row["step"]) for row in run.samples}, reverse=True):
        by_status: dict[str, list[Mapping[str, Any]]] = {}
        for row in run.samples:
            if int(row["step"]) == step:
                by_status.setdefault(str(row.get("status")), []).append(row)
        turns = chain.from_iterable(zip_longest(*by_status.values()))
        yield step, [row for row in turns if row is not None][:shown]
        shown = _SAMPLES_SHOWN // 2


def _sample_facts(row: Mapping[str, Any]) -> str:
    """One line: reward, reference, the answer that the verifier read, its reason, whether the response was cut off."""
    parts = [
        f"{len(turns)} turns" if (turns := row.get("turns")) else "",
        f"reward {format_number(row.get('reward'))}",
        f"reference {row.get('reference')}",
        "no answer found" if row.get("extracted") is None else f"read as {row['extracted']}",
        str(row.get("reason") or ""),
        "cut off at the token limit" if row.get("finish_reason") == "length" else "",
    ]
    return "; ".join(part for part in parts if part)


def _event_rows(events: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Time, kind, message, details."""
    for event in events:
        details = [f"{key} {value}" for key, value in event.items() if key not in ("time", "kind", "message")]
        at = f"{datetime.fromtimestamp(float(event['time']), UTC):%Y-%m-%d %H:%M:%S}"
        yield [at, event["kind"], event["message"], ", ".join(details)]


def render_page(template: Path, values: Mapping[str, object]) -> str:
    """The page of `template`, which may use the files in `TEMPLATES`. Characters that a page cannot hold become �."""
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M UTC}"
    return _UNPRINTABLE.sub("�", _environment(template.parent).get_template(template.name).render(values, made=made))


def shorten(text: object, head: int = 2400, tail: int = 1200) -> str:
    """The start and the end of a long text, and the number of characters left out between them."""
    text = str(text)
    missing = len(text) - head - tail
    return text if missing <= 0 else f"{text[:head]}\n… {missing:,} characters left out …\n{text[-tail:]}"


def direction(start: float | None, last: float | None) -> str:
    """CSS class of a change: up, down, or empty where the change rounds to 0.000."""
    change = 0.0 if start is None or last is None else round(last - start, 3)
    return "up" if change > 0 else "down" if change < 0 else ""


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader((folder, TEMPLATES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(change=format_change, direction=direction, score=format_score, shorten=shorten)
    return environment
