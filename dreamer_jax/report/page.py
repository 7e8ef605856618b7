"""A report as one HTML page with its figures inside: curves, scores, aggregates and every run. Imports no JAX.

Names and texts from run folders are escaped; the page loads nothing.
"""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from dreamer_jax.core.errors import StorageError
from dreamer_jax.core.files import make_folder, write_json, write_text
from dreamer_jax.core.text import safe_name
from dreamer_jax.report.aggregates import RESAMPLES, require_rliable
from dreamer_jax.report.comparison import Panel, make_panels, protocol_labels
from dreamer_jax.report.html_parts import NOTHING, Markup, cell, note, number, page, table
from dreamer_jax.report.published import METHODS, published_curves
from dreamer_jax.report.scores import aggregates, scores
from dreamer_jax.report.summary import Run, device_name, summarise, summary_names, unused
from dreamer_jax.runs.folder import POLICIES, over_episodes

READING = (
    "<b>Training returns</b> are those of the episodes that the agent learns from, its actions sampled. <b>Evaluation "
    "returns</b> are those of episodes apart from training. The two are not the same measurement, so they stand in separate "
    "columns, and every curve says which it is.",
    "Ours: training returns are means over the episodes that end in a bin of environment steps. Evaluation returns are those "
    "of the last agent, no checkpoint chosen. In scores and figures ± is the sample standard deviation over seeds (n - 1); in "
    "the table of runs it is the standard deviation over the episodes of one evaluation (n).",
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
      ConfigError: rliable is missing.
      StorageError: the folder cannot be written.
    """
    require_rliable()
    from dreamer_jax.report.figures import draw_panel, label_colors  # Matplotlib is slow to load

    panels, repeated = make_panels(runs)
    colors = label_colors(sorted({group.label for panel in panels for group in panel.groups}))
    summaries = [summarise(run, threshold) for run in runs]
    make_folder(folder)
    try:
        figures: dict[str, Panel] = {}
        for panel in panels:
            name = unused(safe_name(f"{panel.task}-{panel.obs}"), figures)
            draw_panel(panel, folder / f"{name}.png", colors)
            figures[name] = panel
        for name, summary in zip(summary_names(summaries), summaries):
            write_json(folder / f"{name}.json", summary)
        parts = (
            _head(runs, damaged, panels),
            _curves(figures, folder),
            scores(panels),
            aggregates(panels, resamples),
            _runs(runs, repeated, damaged, summaries),
            _protocol(runs),
        )
        write_text(folder / "report.html", page("dreamer_jax: report", "\n".join(parts)))
    except OSError as error:
        raise StorageError(f"{folder} cannot be written ({error.strerror}); choose another with --output") from None
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
            number(run.recent_return()),
        ]
        for policy in POLICIES:
            result = summary[policy]
            row.append(Markup(f"{over_episodes(result)}<small>{result['episodes']} episodes</small>") if result else NOTHING)
        if solved:
            row.append("never" if summary["solved_at"] is None else f"{summary['solved_at']:,}")
        rows.append([*row, cell(str(run.path))])
    problems = "".join(note(f"Cannot be read: {path}: {problem}") for path, problem in damaged)
    about = (
        "All runs given, unfinished ones too (no evaluation of a last agent). ± is the standard deviation over the episodes of "
        "one evaluation (n)."
    )
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
