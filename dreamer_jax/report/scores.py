"""The scores of a report as HTML: final returns of each task, and aggregates over tasks. Imports no JAX."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from dreamer_jax.core.statistics import spread
from dreamer_jax.core.text import plus_minus
from dreamer_jax.report.aggregates import STATISTICS, Aggregate, Estimate, aggregate
from dreamer_jax.report.comparison import Group, Panel, last_bin
from dreamer_jax.report.html_parts import NOTHING, Markup, cell, name_cell, note, number, table
from dreamer_jax.report.published import AGGREGATES, METHODS, RETURN_SCALE, methods_of, published_curves
from dreamer_jax.runs.folder import POLICIES

SUITES = {"dmc_proprio": "DeepMind Control from state (proprio)", "dmc_vision": "DeepMind Control from pixels (vision)"}


def scores(panels: Sequence[Panel]) -> str:
    """Final scores of all tasks, suite by suite."""
    return "\n".join(_suite_scores(suite, panels) for suite in (*SUITES, None))


def _suite_scores(suite: str | None, panels: Sequence[Panel]) -> str:
    """Final scores of a suite's tasks: training returns on the left, evaluation returns on the right."""
    chosen = [panel for panel in panels if panel.suite == suite]
    if not chosen:
        return ""
    methods = {kind: [m for m in methods_of(suite) if METHODS[m].returns == kind] for kind in ("training", "evaluation")}
    left, right = methods["training"], methods["evaluation"]
    heads = (
        f'<tr><th class="text" colspan="4"></th><th class="group" colspan="{1 + len(left)}">TRAINING returns</th>'
        f'<th class="group" colspan="{2 + len(right)}">EVALUATION returns</th></tr>'
    )
    names = ["task", "preset", "seeds", "frames", "ours"] + [METHODS[m].label for m in left]
    names += ["ours, deterministic", "ours, sampled"] + [METHODS[m].label for m in right]
    edges = (4, 5 + len(left))
    rows, left_out = [], []
    for panel in chosen:
        published = published_curves(suite, panel.task)
        for group in panel.groups:
            values = {m: published[m].at(group.frames) if m in published else None for m in (*left, *right)}
            evaluated = sorted({f"{int(run.counter('frames')):,}" for run in group.runs if run.finished})
            frames = f"{group.frames:,}" if group.frames else "no full bin"
            rows.append(
                [
                    name_cell(panel.title if suite is None else panel.task),
                    name_cell(group.label),
                    len(group.runs),
                    Markup(cell(frames) + (f"<small>evaluation: {', '.join(evaluated)}</small>" if evaluated else "")),
                    _seeds(group.training() if group.frames else {}),
                    *(number(values[m]) for m in left),
                    *(_seeds(group.evaluation(policy)) for policy in POLICIES),
                    *(number(values[m]) for m in right),
                ]
            )
            left_out += _not_scored(panel, group)
    about = "Training returns: the bin that ends at the frames given"
    about += "; published values are those of the same bin. " if suite else ". "
    about += "Below each of our means: seed: return."
    title = SUITES.get(suite or "", "Other tasks")
    texts = "".join(note(text) for text in left_out)
    scores = table(names, rows, text=(0, 1), edges=edges, above=heads)
    return f"<h2>Final scores: {escape(title)}</h2>\n{note(about)}{scores}{texts}"


def _not_scored(panel: Panel, group: Group) -> list[str]:
    """A sentence on the seeds whose training return is not in the mean."""
    missing = [run for run in group.runs if run not in group.scored()]
    if not missing or not group.frames:
        return []
    seeds = ", ".join(f"{run.config.seed} (at frame {int(run.counter('frames')):,})" for run in missing)
    return [f"{panel.title}, {group.label}: not in the mean of training returns, because it is not that far: seed {seeds}."]


def aggregates(panels: Sequence[Panel], resamples: int) -> str:
    """IQM, median and mean over the tasks of each suite and protocol, with the published methods' means."""
    suites = {suite: [panel for panel in panels if panel.suite == suite] for suite in SUITES}
    parts = [_suite_aggregates(suite, chosen, resamples) for suite, chosen in suites.items() if chosen]
    about = (
        f"Normalised return = return / {RETURN_SCALE:g}, the largest return of a DeepMind Control task; no other "
        "normalisation. In brackets: 95% stratified bootstrap interval over seeds (rliable, "
        f"{resamples:,} resamples). Published methods have no interval here: only their means over seeds are published, so "
        "their number is the mean over our tasks of these means in the same bin."
    )
    if not parts:
        about = "None: only DeepMind Control tasks, from state or from pixels, have a common scale here."
    return f"<h2>Aggregates over tasks</h2>\n{note(about)}{''.join(parts)}"


def _suite_aggregates(suite: str, panels: Sequence[Panel], resamples: int) -> str:
    rows: list[list[Any]] = []
    notes: dict[tuple[str, str], list[str]] = {}
    compared: dict[tuple[tuple[str, ...], int], str] = {}  # the label that first has these tasks at these frames
    for label in sorted({group.label for panel in panels for group in panel.groups}):
        groups = [group for panel in panels for group in panel.groups if group.label == label]
        frames = min((group.frames for group in groups if group.frames), default=0)
        training = {g.task: _normalise(g.training(frames)) if g.frames else {} for g in groups}
        at = f" in the bin that ends at {frames:,} frames" if frames else ""
        _add(rows, notes, label, f"TRAINING{at}", aggregate(training, resamples))
        for policy in POLICIES:
            scores = {group.task: _normalise(group.evaluation(policy)) for group in groups}
            _add(rows, notes, label, f"EVALUATION, {policy}, of the last agent", aggregate(scores, resamples))
        tasks = tuple(task for task, seeds in training.items() if seeds)
        if frames and len(tasks) > 1:
            compared.setdefault((tasks, frames), label)
    for (tasks, frames), label in compared.items():
        means = _published_means(suite, tasks, frames, f", tasks of {label}" if len(compared) > 1 else "")
        rows += means.values()
        lacking = ", ".join(METHODS[name].label for name in methods_of(suite) if name not in means)
        if lacking:
            notes[label, f"no published mean of all {len(tasks)} tasks at {frames:,} frames: {lacking}."] = []
    texts = [
        f"{label}{', ' + ' and '.join(kinds) if 0 < len(kinds) <= len(POLICIES) else ''}: {text}"
        for (label, text), kinds in notes.items()
    ]
    below = "".join(note(text) for text in (*texts, *_published_aggregates(suite, panels)))
    names = ["method", "returns", "tasks", "seeds of each", *STATISTICS]
    return f"<h3>{escape(SUITES[suite])}</h3>\n{table(names, rows, text=(0, 1)) if rows else ''}{below}"


def _add(rows: list[list[Any]], notes: dict[tuple[str, str], list[str]], label: str, returns: str, result: Aggregate) -> None:
    """Adds a row where there is one, and files each note under what it is about."""
    for text in result.notes:
        notes.setdefault((label, text), []).append(returns)
    if result.estimates:
        values = [_estimate(result.estimates[name]) for name in STATISTICS]
        rows.append([cell(f"ours: {label}"), cell(returns), result.tasks, result.seeds, *values])


def _published_means(suite: str, tasks: Sequence[str], frames: int, of: str) -> dict[str, list[Any]]:
    """A row, by method, for each published method that has all the tasks at these frames."""
    rows = {}
    for name in methods_of(suite):
        curves = [published_curves(suite, task).get(name) for task in tasks]
        values = [curve.at(frames) if curve else None for curve in curves]
        known = [value for value in values if value is not None]
        if len(known) == len(tasks):
            kind = f"{METHODS[name].returns.upper()} in the bin that ends at {frames:,} frames{of}"
            mean = f"{np.mean(known) / RETURN_SCALE:.3f}"
            rows[name] = [cell(f"published: {METHODS[name].label}"), cell(kind), len(tasks), "", "", "", mean]
    return rows


def _published_aggregates(suite: str, panels: Sequence[Panel]) -> list[str]:
    """Sentences with other published figures, once a run of ours is that long."""
    longest = max(last_bin(run, group.width) for panel in panels for group in panel.groups for run in group.runs)
    found = [line for line in AGGREGATES if line.benchmark == suite and line.frames <= longest]
    if not found:
        return []
    figures = ", ".join(f"{line.method} {line.mean} / {line.median} ({line.returns})" for line in found)
    first = found[0]
    return [f"Published for all {first.tasks} tasks at {first.frames:,} frames, mean / median of returns: {figures}."]


def _normalise(returns: Mapping[int, float]) -> dict[int, float]:
    return {seed: value / RETURN_SCALE for seed, value in returns.items()}


def _seeds(returns: Mapping[int, float]) -> Markup:
    """Mean ± sample standard deviation over seeds, and each seed's return below."""
    if not returns:
        return NOTHING
    mean, std, *_ = spread(list(returns.values()))
    each = ", ".join(f"{seed}: {value:.1f}" for seed, value in returns.items())
    return Markup(f'{plus_minus(mean, std)}<small class="seeds">{each}</small>')


def _estimate(value: Estimate) -> str:
    return f"{value.point:.3f}" + ("" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]")
