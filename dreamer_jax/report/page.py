"""A report as one HTML page with its figures inside: curves, scores, aggregates and every run. Imports no JAX.

Names and texts from run folders are escaped; the page loads nothing.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.files import write_json
from dreamer_jax.report.aggregates import RESAMPLES, STATISTICS, Aggregate, Estimate, aggregate, require_rliable
from dreamer_jax.report.comparison import Group, Panel, last_bin, make_panels, protocol_labels
from dreamer_jax.report.html_parts import NOTHING, Markup, cell, name_cell, note, page, table
from dreamer_jax.report.published import AGGREGATES, METHODS, RETURN_SCALE, methods_of, published_curves
from dreamer_jax.report.summary import POLICIES, Run, device_name, file_name, summarise, summary_names, unused

SUITES = {"dmc_proprio": "DeepMind Control from state (proprio)", "dmc_vision": "DeepMind Control from pixels (vision)"}
READING = (
    "<b>Training returns</b> are those of the episodes that the agent learns from, its actions sampled. <b>Evaluation "
    "returns</b> are those of episodes apart from training. The two are not the same measurement, so they stand in separate "
    "columns, and every curve says which it is.",
    "Ours: training returns are means over the episodes that end in a bin of environment steps; the seeds' mean ± standard "
    "deviation (n - 1) over seeds. Evaluation returns are those of the last agent, no checkpoint chosen.",
    "Published: means over the authors' seeds, in bins of the same width. {sources}.",
    "<b>Frames</b> are simulator steps, action repeat counted; decisions are actions; updates are gradient steps.",
)


def write_report(
    runs: Sequence[Run],
    damaged: Sequence[tuple[Path, str]],
    folder: Path,
    threshold: float | None = None,
    resamples: int = RESAMPLES,
) -> Path:
    """Writes `report.html`, one PNG a task and one JSON summary a run -> the page's path.

    Args:
      runs: finished or not.
      damaged: folders that could not be read, with what is wrong; they are listed.
      folder: made if missing; files of the same names are overwritten.
      threshold: return that counts as solved, as for `report.summarise`.
      resamples: of the bootstrap.

    Raises:
      ConfigError: rliable is missing, or the folder cannot be written.
    """
    require_rliable()
    from dreamer_jax.report.figures import draw_panel, label_colors  # Matplotlib is slow to load

    panels, repeated = make_panels(runs)
    colors = label_colors(sorted({group.label for panel in panels for group in panel.groups}))
    summaries = [summarise(run, threshold) for run in runs]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        figures: dict[str, Panel] = {}
        for panel in panels:
            name = unused(file_name(f"{panel.task}-{panel.obs}"), figures)
            draw_panel(panel, folder / f"{name}.png", colors)
            figures[name] = panel
        for name, summary in zip(summary_names(summaries), summaries):
            write_json(folder / f"{name}.json", summary)
        body = "\n".join(
            (
                _head(runs, damaged, panels),
                _curves(figures, folder),
                *(_scores(suite, panels) for suite in (*SUITES, None)),
                _aggregates(panels, resamples),
                _runs(runs, repeated, damaged, summaries),
                _protocol(runs),
            )
        )
        (folder / "report.html").write_text(page("dreamer_jax: report", body), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written ({error.strerror}); choose another with --output") from None
    return folder / "report.html"


def _head(runs: Sequence[Run], damaged: Sequence[Any], panels: Sequence[Panel]) -> str:
    finished = sum(run.finished for run in runs)
    counts = [f"{len(runs)} runs on {len(panels)} tasks", f"{finished} finished"]
    counts += [f"{len(runs) - finished} unfinished"] if finished < len(runs) else []
    counts += [f"{len(damaged)} that cannot be read"] if damaged else []
    shown = {name for panel in panels for name in published_curves(panel.suite, panel.task)}
    kinds = []
    for kind in ("training", "evaluation"):
        methods = [method for name, method in METHODS.items() if name in shown and method.returns == kind]
        labels = ", ".join(f"{method.label} ({method.source})" for method in methods)
        kinds += [f"{kind.capitalize()} returns: {escape(labels)}"] if methods else []
    reading = [text for text in READING if shown or "{sources}" not in text]
    items = "".join(f"<li>{text.format(sources='. '.join(kinds))}</li>" for text in reading)
    return f"<h1>dreamer_jax: report</h1>\n<p>{', '.join(counts)}.</p>\n<ul>{items}</ul>"


def _curves(figures: Mapping[str, Panel], folder: Path) -> str:
    parts = []
    for name, panel in figures.items():
        image = base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        published = published_curves(panel.suite, panel.task)
        text = f"Bins of {panel.groups[0].width:,} frames; a dot stands at the end of its bin."
        if published:
            last = max(curve.env_steps[-1] for curve in published.values())
            text += f" Published curves go on to {last:,} frames."
        else:
            text += " No published curves for this task."
        alt = escape(f"return over frames: {panel.title}", quote=True)
        parts.append(
            f'<figure><img alt="{alt}" src="data:image/png;base64,{image}"><figcaption>{escape(text)}</figcaption></figure>'
        )
    return f'<h2>Learning curves</h2>\n<div class="curves">{"".join(parts)}</div>' if parts else ""


def _scores(suite: str | None, panels: Sequence[Panel]) -> str:
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
                    *(_number(values[m]) for m in left),
                    *(_seeds(group.evaluation(policy)) for policy in POLICIES),
                    *(_number(values[m]) for m in right),
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


def _aggregates(panels: Sequence[Panel], resamples: int) -> str:
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


def _runs(
    runs: Sequence[Run], repeated: Sequence[Run], damaged: Sequence[tuple[Path, str]], summaries: Sequence[dict[str, Any]]
) -> str:
    """Every run with what became of it."""
    solved = any("solved_at" in summary for summary in summaries)
    names = ["task", "preset", "seed", "state", "frames", "minutes", "training, last 10 episodes"]
    names += ["evaluation, deterministic", "evaluation, sampled"] + (["solved at"] if solved else []) + ["folder"]
    rows = []
    for run, label, summary in zip(runs, protocol_labels([run.config for run in runs]), summaries):
        state = cell("finished") if run.finished else Markup('<span class="state">unfinished</span>')
        if run in repeated:
            state = Markup(state + "<small>not used: another run of this seed got further</small>")
        row = [
            cell(f"{run.config.env.task}" + (f" ({run.config.env.obs})" if run.config.env.task.startswith("dmc:") else "")),
            cell(label),
            run.config.seed,
            state,
            Markup(f"{summary['frames']:,}<small>of {run.config.train.frames:,}</small>"),
            f"{summary['wall_seconds'] / 60:.1f}",
            _number(run.recent_return()),
        ]
        for policy in POLICIES:
            result = summary[policy]
            spread = NOTHING if result is None else f"{result['return_mean']:.1f} ± {result['return_std']:.1f}"
            row.append(Markup(spread + (f"<small>{result['episodes']} episodes</small>" if result else "")))
        if solved:
            row.append("never" if summary["solved_at"] is None else f"{summary['solved_at']:,}")
        rows.append([*row, cell(str(run.path))])
    problems = "".join(note(f"Cannot be read: {path}: {problem}") for path, problem in damaged)
    about = "All runs given, unfinished ones too (no evaluation of a last agent). ± is over the episodes of one evaluation."
    return f"<h2>Runs</h2>\n{note(about)}{table(names, rows, text=(0, 1, 3), paths=(len(names) - 1,))}{problems}"


def _protocol(runs: Sequence[Run]) -> str:
    """How each run was made, and with which versions."""
    names = ["task", "preset", "seed", "size", "environments", "action repeat", "train ratio", "batch"]
    names += ["frames", "decisions", "updates", "device", "precision", "commit", "versions"]
    sets: list[str] = []
    rows = []
    for run in runs:
        config, environment = run.config, run.environment
        versions = ", ".join(f"{name} {version}" for name, version in environment.get("versions", {}).items()) or "unknown"
        sets += [versions] if versions not in sets else []
        rows.append(
            [
                cell(config.env.task),
                cell(config.preset),
                config.seed,
                cell(config.model.size),
                config.env.num_envs,
                config.env.action_repeat,
                f"{config.replay.train_ratio:g}",
                f"{config.replay.batch_size} x {config.replay.batch_length}",
                *(f"{int(run.counter(name)):,}" for name in ("frames", "decisions", "updates")),
                cell(device_name(environment)),
                cell(config.precision),
                cell(str(environment.get("git_commit", "unknown"))[:10]),
                f"({sets.index(versions) + 1})",
            ]
        )
    lists = "".join(note(f"({index + 1}) {versions}") for index, versions in enumerate(sets))
    return f"<h2>Protocol</h2>\n{table(names, rows, text=(0, 1))}{lists}" if rows else ""


def _normalise(returns: Mapping[int, float]) -> dict[int, float]:
    return {seed: value / RETURN_SCALE for seed, value in returns.items()}


def _seeds(returns: Mapping[int, float]) -> Markup:
    """Mean ± standard deviation over seeds, and each seed's return below."""
    if not returns:
        return NOTHING
    values = np.array(list(returns.values()))
    spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
    each = ", ".join(f"{seed}: {value:.1f}" for seed, value in returns.items())
    return Markup(f'{values.mean():.1f}{spread}<small class="seeds">{each}</small>')


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def _estimate(value: Estimate) -> str:
    return f"{value.point:.3f}" + ("" if value.low is None else f" [{value.low:.3f}, {value.high:.3f}]")
