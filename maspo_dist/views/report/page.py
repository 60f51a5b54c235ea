"""The page: headline, curves, trust region, samples, groups, events, configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maspo_dist.errors import ConfigError
from maspo_dist.runs.whole_file import replace_text
from maspo_dist.views.format import MISSING, format_change, format_duration, format_number, format_score
from maspo_dist.views.report.curves import (
    LEARNING,
    SPEED_AND_SYNC,
    TRUST_REGION,
    Chart,
    draw,
    draw_phases,
    eval_charts,
    other_charts,
)
from maspo_dist.views.report.markup import escape, shorten
from maspo_dist.views.report.runs import Run, config_differences, read_run
from maspo_dist.views.report.style import CSS
from maspo_dist.views.report.trust_region import draw_trust_region

_SAMPLES_SHOWN = 6


def write_report(run_folders: Sequence[Path], out: Path) -> None:
    """Writes one page over one run, or several compared, to `out`; the page needs no other file.

    Raises ConfigError if a folder holds no run, DataError for a damaged file in one.
    """
    if not run_folders:
        raise ConfigError("report: no run folder given; name at least one, such as runs/local-smoke")
    replace_text(out, render_page([read_run(Path(folder)) for folder in run_folders]))


def render_page(runs: Sequence[Run]) -> str:
    evals = eval_charts(runs)
    drawn: tuple[Chart, ...] = (*LEARNING, *evals, *TRUST_REGION, *SPEED_AND_SYNC)
    phases = "".join(draw_phases(run, f"Time: {run.name}" if len(runs) > 1 else "Time") for run in runs)
    body = [
        _headline(runs),
        _section("Learning", _grid(draw((LEARNING[0], *evals, *LEARNING[1:]), runs))),
        _section("Trust region", _grid(draw(TRUST_REGION, runs)) + _each(runs, draw_trust_region)),
        _section("Speed and weight sync", _grid(phases + draw(SPEED_AND_SYNC, runs))),
        _section("Samples", _each(runs, _samples)),
        _section("Prompt groups", _each(runs, _ledger)),
        _section("Events", _each(runs, _events)),
        _folded("All other metrics", _grid(draw(other_charts(runs, drawn), runs))),
        _section("Configuration", _differences(runs) + "".join(map(_configuration, runs))),
    ]
    title = escape(", ".join(run.name for run in runs))
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head>\n<body><main>{''.join(body)}"
        f"<footer>Made by maspo-dist, {made}. Point at a curve for its numbers.</footer></main></body></html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>\n" if content else ""


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>\n" if content else ""


def _grid(figures: str) -> str:
    return f'<div class="charts">{figures}</div>' if figures else ""


def _each(runs: Sequence[Run], render: Callable[[Run], str]) -> str:
    """`render` of each run, under its name where there are several."""
    parts = [(run, render(run)) for run in runs]
    if len(runs) == 1:
        return parts[0][1]
    return "".join(f'<h3 style="margin:20px 0 6px">{escape(run.name)}</h3>{part}' for run, part in parts if part)


def _headline(runs: Sequence[Run]) -> str:
    if len(runs) > 1:
        return f'<h1>{len(runs)} runs compared</h1><p class="lead">{escape(_names(runs))}</p>{_comparison(runs)}'
    run = runs[0]
    heroes = [
        _hero(f"held-out {name}, {score.measure}", score.start, score.last)
        for name, score in run.progress.scores.items()
    ]
    if run.progress.first_reward is not None:
        heroes.append(
            _hero("training reward, first and last step", run.progress.first_reward, run.progress.last_reward)
        )
    shown = f'<div class="heroes">{"".join(heroes)}</div>' if heroes else "<p>No metrics yet.</p>"
    return f'<h1>{escape(run.name)}</h1><p class="lead">{escape(_facts(run))}</p>{shown}'


def _names(runs: Iterable[Run]) -> str:
    return ", ".join(run.name for run in runs)


def _facts(run: Run) -> str:
    """One line: loss, model, steps, time, seed."""
    loss = str(run.config.get("algorithm.loss.kind", "")).upper()
    model = str(run.config.get("model.path", ""))
    times = [value for _, value in run.series.get("time/step_s", ()) if value is not None]
    parts = [
        loss,
        Path(model).name,
        f"{run.progress.step} of {run.max_steps} steps",
        f"{format_duration(sum(times))} in steps" if times else "",
        f"seed {run.config['run.seed']}" if "run.seed" in run.config else "",
    ]
    return " · ".join(part for part in parts if part)


def _hero(label: str, start: float | None, last: float | None) -> str:
    return (
        f'<div class="hero"><div class="label">{escape(label)}</div>'
        f'<div class="value"><small>{format_score(start)} →</small> {format_score(last)}</div>'
        f"<div>{_gain(start, last)}</div></div>"
    )


def _gain(start: float | None, last: float | None) -> str:
    if start is None or last is None:
        return MISSING
    # Judged as it is written: a change of less than half of the last digit is none.
    change = round(last - start, 3)
    style = "up" if change > 0 else "down" if change < 0 else ""
    return f'<span class="{style}">{format_change(start, last)}</span>'


def _comparison(runs: Sequence[Run]) -> str:
    sets = dict.fromkeys(name for run in runs for name in run.progress.scores)
    heads = "".join(f"<th>{escape(name)}</th><th>gain</th>" for name in sets)
    rows = []
    for run in runs:
        cells = [f"<td>{escape(run.name)}</td>", f"<td>{run.progress.step} of {run.max_steps}</td>"]
        for name in sets:
            score = run.progress.scores.get(name)
            cells.append(_from_to(score.start, score.last) if score else "<td></td><td></td>")
        cells.append(_from_to(run.progress.first_reward, run.progress.last_reward))
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="panel scroll fit"><table><tr><th>run</th><th>steps</th>{heads}'
        f"<th>training reward</th><th>gain</th></tr>{''.join(rows)}</table></div>"
    )


def _from_to(start: float | None, last: float | None) -> str:
    return f"<td>{format_score(start)} → {format_score(last)}</td><td>{_gain(start, last)}</td>"


def _samples(run: Run) -> str:
    """A few responses of the last sampled step and of the first, right and wrong ones."""
    steps = sorted({int(row["step"]) for row in run.samples}, reverse=True)
    parts = []
    for step in steps:
        rows = _mixed([row for row in run.samples if int(row["step"]) == step])
        cards = "".join(map(_sample, rows[: _SAMPLES_SHOWN if step == steps[0] else _SAMPLES_SHOWN // 2]))
        parts.append(f'<p class="note">Step {step}</p><div class="samples">{cards}</div>')
    return "".join(parts)


def _mixed(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows with verdicts taken in turn, so that the first few show each kind."""
    by_status: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_status.setdefault(str(row.get("status")), []).append(row)
    turns = max((len(group) for group in by_status.values()), default=0)
    return [group[turn] for turn in range(turns) for group in by_status.values() if turn < len(group)]


def _sample(row: Mapping[str, Any]) -> str:
    status = str(row.get("status", ""))
    style = "up" if status == "correct" else "down"
    read_as = "no answer found" if row.get("extracted") is None else f"read as {row['extracted']}"
    facts = [f"reward {format_number(row.get('reward'))}", f"reference {row.get('reference')}", read_as]
    facts.append(str(row.get("reason") or ""))
    if row.get("finish_reason") == "length":
        facts.append("cut off at the token limit")
    return (
        f'<div class="sample"><div class="head"><h3>{escape(row.get("prompt_id", ""))}</h3>'
        f'<span class="verdict {style}">{escape(status)}</span></div>'
        f'<pre class="prompt">{escape(shorten(str(row.get("prompt", "")), 1200, 600))}</pre>'
        f"<pre>{escape(shorten(str(row.get('response', ''))))}</pre>"
        f'<div class="facts">{escape(shorten("; ".join(fact for fact in facts if fact), 400, 100))}</div></div>'
    )


def _ledger(run: Run) -> str:
    if not run.ledger:
        return ""
    total = sum(run.ledger.values())
    rows = "".join(
        f'<tr><td>{escape(outcome)}</td><td class="words">{escape(reason)}</td><td>{groups:,}</td>'
        f"<td>{groups / total:.1%}</td></tr>"
        for (outcome, reason), groups in run.ledger.most_common()
    )
    return (
        '<div class="panel scroll fit"><table><tr><th>outcome</th>'
        f'<th class="words">reason</th><th>groups</th><th>share</th></tr>{rows}</table></div>'
    )


def _events(run: Run) -> str:
    if not run.events:
        return ""
    left_out = run.event_count - len(run.events)
    note = f'<p class="note">The last {len(run.events)}; {left_out:,} earlier ones are in events.jsonl.</p>'
    rows = "".join(map(_event_row, run.events))
    return (
        (note if left_out else "")
        + '<div class="panel scroll fit"><table><tr><th>time (UTC)</th><th class="words">kind</th>'
        + f'<th class="words">what happened</th><th class="words">details</th></tr>{rows}</table></div>'
    )


def _event_row(event: Mapping[str, Any]) -> str:
    at = datetime.fromtimestamp(float(event["time"]), UTC).strftime("%Y-%m-%d %H:%M:%S")
    details = ", ".join(f"{key} {value}" for key, value in event.items() if key not in ("time", "kind", "message"))
    words = "".join(f'<td class="words">{escape(text)}</td>' for text in (event["kind"], event["message"], details))
    return f"<tr><td>{at}</td>{words}</tr>"


def _differences(runs: Sequence[Run]) -> str:
    rows = config_differences(runs)
    if not rows:
        return ""
    heads = "".join(f"<th>{escape(run.name)}</th>" for run in runs)
    body = "".join(
        f"<tr><td>{escape(key)}</td>{''.join(f'<td>{escape(_config_value(value))}</td>' for value in values)}</tr>"
        for key, values in rows
    )
    return f'<div class="panel scroll fit"><table><tr><th>differs in</th>{heads}</tr>{body}</table></div>'


def _config_value(value: object) -> str:
    return MISSING if value is None else str(value)


def _configuration(run: Run) -> str:
    return _folded(f"config.yaml of {run.name}", f"<pre>{escape(run.config_yaml)}</pre>" if run.config_yaml else "")
