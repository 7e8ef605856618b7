"""Figures of a report: the learning curves of a task beside the published ones. Import it where it is used."""

import textwrap
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter

from dreamer_jax.core.figures import COLORS, note_in, plain_axes, save_figure
from dreamer_jax.core.statistics import running_mean, sample_std
from dreamer_jax.report.comparison import Group, Panel
from dreamer_jax.report.published import METHODS, published_curves
from dreamer_jax.runs.metrics import RETURN_WINDOW, of_kind

LEGEND_WIDTH = 48  # longest line of a legend [characters]
PUBLISHED_COLORS = {
    "dreamerv3": "#222222",
    "ppo": "#8c8c8c",
    "dreamerv2": "#8a6d3b",
    "dreamerv1": "#c9a25b",
    "d4pg": "#e08bb0",
    "dmpo": "#79b8a0",
    "mpo": "#a3b86c",
    "ddpg": "#b9a3d0",
    "drqv2": "#e08bb0",
    "curl": "#79b8a0",
    "sac": "#b9a3d0",
}


def label_colors(labels: list[str]) -> dict[str, str]:
    """A colour for each label of a report, the same in all of its figures."""
    return {label: COLORS[index % len(COLORS)] for index, label in enumerate(labels)}


def shown_frames(panel: Panel) -> int:
    """Right end of a panel [frames]: a little beyond our longest run, and four bins at least."""
    longest = max(run.counter("frames") for group in panel.groups for run in group.runs)
    return int(max(1.04 * longest, 4.2 * max(group.width for group in panel.groups)))


def draw_panel(panel: Panel, path: Path, colors: Mapping[str, str]) -> None:
    """Draws a task's returns over frames to a PNG (150 dpi).

    Ours: a line with dots is the binned mean over seeds with a band of one standard deviation (n - 1), thin lines are the
    running means of single seeds, diamonds evaluations on the way. Published: solid lines are returns of training episodes,
    dashed ones of evaluation episodes.
    """
    figure = Figure(figsize=(7.4, 5.6), layout="constrained")
    axes = figure.subplots()
    end = shown_frames(panel)
    for group in panel.groups:
        _draw_group(axes, group, colors[group.label])
    _draw_published(axes, panel, end)
    axes.set_title(_plain(panel.title), fontsize=12)
    axes.set(xlabel="environment steps [frames]", ylabel="return [sum of rewards of an episode]", xlim=(0, end))
    if panel.suite:
        axes.set_ylim(bottom=0)
    plain_axes(axes)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    figure.legend(
        handles=[*_our_handles(panel, colors), *axes.get_legend_handles_labels()[0]],
        loc="outside lower center",
        ncols=2,
        fontsize=8,
        frameon=False,
    )
    if not axes.has_data():
        note_in(axes, "no finished episode yet")
    save_figure(figure, path, dpi=150)


def _draw_published(axes: Axes, panel: Panel, end: int) -> None:
    for name, curve in published_curves(panel.suite, panel.task).items():
        shown = curve.env_steps <= end
        method = METHODS[name]
        axes.plot(
            curve.env_steps[shown],
            curve.returns[shown],
            color=PUBLISHED_COLORS[name],
            linewidth=1.7 if name == "dreamerv3" else 1.2,
            linestyle="-" if method.returns == "training" else "--",
            marker="." if shown.sum() == 1 else "",
            zorder=1.5,  # below ours
            label=f"published: {method.label} ({method.returns})",
        )


def _draw_group(axes: Axes, group: Group, color: str) -> None:
    for run in group.runs:
        if episodes := of_kind(run.rows, "episode"):
            returns = running_mean(np.array([row["return"] for row in episodes], float), RETURN_WINDOW)
            axes.plot([row["frames"] for row in episodes], returns, color=color, linewidth=0.8, alpha=0.45)
    curves = group.curves()
    if curves.size:
        x, mean = group.width * np.arange(1, curves.shape[1] + 1), curves.mean(0)
        if len(curves) > 1:
            std = sample_std(curves)
            axes.fill_between(x, mean - std, mean + std, color=color, alpha=0.15, linewidth=0)
        axes.plot(x, mean, color=color, linewidth=2.4, marker="o", markersize=4)
    evaluations = [(row["frames"], row["return_mean"]) for run in group.runs for row in of_kind(run.rows, "eval")]
    if evaluations:
        axes.plot(
            *zip(*evaluations),
            linestyle="",
            marker="D",
            markersize=5,
            markerfacecolor="white",
            markeredgecolor=color,
            zorder=3,
        )


def _our_handles(panel: Panel, colors: Mapping[str, str]) -> list[Line2D]:
    """Legend entries: one a group, and one for each of our kinds of marks."""
    handles = []
    for group in panel.groups:
        count = len(group.scored())
        seeds = f"{count} seeds, mean ± std" if count > 1 else "1 seed" if count else "no full bin yet"
        name, about = f"ours: {_plain(group.label)}", f"(training, {seeds})"
        fits = len(name) + len(about) < LEGEND_WIDTH
        text = f"{name} {about}" if fits else f"{textwrap.fill(name, LEGEND_WIDTH)}\n{about}"
        handles.append(Line2D([], [], color=colors[group.label], linewidth=2.4, marker="o", markersize=4, label=text))
    thin = f"ours: each seed, last {RETURN_WINDOW} training episodes"
    handles.append(Line2D([], [], color="#444444", linewidth=0.8, label=thin))
    if any(of_kind(run.rows, "eval") for group in panel.groups for run in group.runs):
        style = {"linestyle": "", "marker": "D", "markersize": 5, "markerfacecolor": "white", "markeredgecolor": "#444444"}
        handles.append(Line2D([], [], label="ours: each seed, evaluation (deterministic)", **style))
    return handles


def _plain(text: str) -> str:
    """Text that Matplotlib shows as it stands: "$" would start a formula."""
    return text.replace("$", r"\$")
