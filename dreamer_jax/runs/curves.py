"""Pictures of a run: its learning curves. Import it where it is used; Matplotlib is slow to load."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from dreamer_jax.core.figures import BLUE, RED, note_in, plain_axes, save_figure
from dreamer_jax.core.statistics import running_mean
from dreamer_jax.runs.metrics import RETURN_WINDOW, of_kind

MAIN_LOSSES = (
    "loss/total",
    "loss/reward",
    "loss/continue",
    "loss/dyn",
    "loss/rep",
    "loss/policy",
    "loss/value",
    "loss/replay_value",
)
DECODER_PREFIX = "loss/decoder"


def draw_curves(metrics: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draws the returns over frames, the losses over updates and the process's memory over frames to a PNG (150 dpi).

    Args:
      metrics: rows as `metrics.read_metrics` gives them. "episode" rows have return; "eval" rows return_mean and
        return_std, the standard deviation over the evaluation's episodes; "train" rows the losses and resident_mib.
      path: the picture.
      title: above the panels.
    """
    # A Figure of its own, not pyplot: nothing global, no display, and PNG is always drawn by Agg.
    figure = Figure(figsize=(16, 4.8), layout="constrained")
    panels = figure.subplots(1, 3, width_ratios=(5, 5, 3))
    figure.suptitle(title)
    updates = of_kind(metrics, "train")
    _draw_returns(panels[0], metrics)
    _draw_losses(panels[1], updates)
    _draw_memory(panels[2], updates)
    for axes in panels:
        plain_axes(axes)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_xlim(left=0)
    save_figure(figure, path, dpi=150)


def _draw_returns(axes: Axes, metrics: Sequence[dict[str, Any]]) -> None:
    episodes, evaluations = of_kind(metrics, "episode"), of_kind(metrics, "eval")
    if episodes:
        x = [row["frames"] for row in episodes]
        y = np.array([row["return"] for row in episodes], float)
        axes.scatter(x, y, s=9, color=BLUE, alpha=0.25, linewidths=0, label="training episode")
        mean = running_mean(y, RETURN_WINDOW)
        marker = "o" if len(y) == 1 else ""  # a line of one point would not be seen
        axes.plot(x, mean, color=BLUE, linewidth=1.8, marker=marker, label=f"mean of the last {RETURN_WINDOW} episodes")
    if evaluations:
        axes.errorbar(
            [row["frames"] for row in evaluations],
            [row["return_mean"] for row in evaluations],
            yerr=[row["return_std"] for row in evaluations],
            fmt="o",
            color=RED,
            markersize=4.5,
            elinewidth=1.2,
            capsize=3,
            label="evaluation, mean ± std over episodes",
        )
    axes.set(xlabel="environment steps [frames]", ylabel="return [sum of rewards of an episode]")
    _legend_or_note(axes, "no finished episode yet", loc="best")


def _draw_losses(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    names = {name for row in rows for name in row}
    decoders = sorted(name for name in names if name.startswith(DECODER_PREFIX))
    shown = []
    for index, name in enumerate((*MAIN_LOSSES, *decoders)):
        points = [(row["updates"], row[name]) for row in rows if name in row]
        if not points:
            continue
        x, y = np.array(points, float).T
        y = running_mean(y, max(1, len(y) // 100))  # a hundredth of the run takes the noise out and keeps the shape
        shown.append(y[np.isfinite(y)])
        main = name in MAIN_LOSSES
        axes.plot(
            x,
            y,
            color="black" if index == 0 else f"C{index - 1}" if main else f"C{index % 10}",
            linewidth=1.8 if index == 0 else 1.1,
            linestyle="-" if main else "--",
            marker="o" if len(y) == 1 else "",
            label=name.removeprefix("loss/"),
        )
    values = np.concatenate([*shown, np.zeros(0)])
    negative = -values[values < 0]
    if negative.size:  # the policy loss: linear where it swings around zero, or its noise would fill the panel
        swing = max(1e-3, float(np.quantile(negative, 0.9)))
        # a power of ten, so that no tick label falls next to the zero
        axes.set_yscale("symlog", linthresh=10.0 ** np.ceil(np.log10(swing)), linscale=0.7)
    elif (values > 0).any():
        axes.set_yscale("log")
    axes.set(xlabel="updates [gradient steps]", ylabel="loss [nats or squared error, before weighting]")
    _legend_or_note(axes, "no update yet", loc="center left", bbox_to_anchor=(1.0, 0.5))


def _draw_memory(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    points = [(row["frames"], row["resident_mib"]) for row in rows if "resident_mib" in row]
    if points:
        marker = "o" if len(points) == 1 else ""
        axes.plot(*np.array(points, float).T, color=BLUE, linewidth=1.4, marker=marker, label="without mapped files")
        axes.set_ylim(bottom=0)
    axes.set(xlabel="environment steps [frames]", ylabel="memory of the process [MiB]")
    _legend_or_note(axes, "not recorded", loc="best")


def _legend_or_note(axes: Axes, note: str, **position: Any) -> None:
    if axes.has_data():
        axes.legend(frameon=False, fontsize=8, **position)
    else:
        axes.set(xticks=[], yticks=[])
        note_in(axes, note)
