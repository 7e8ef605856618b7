"""What a diagnosis found, for people: a table, curves over imagined steps, and what would have followed other actions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dreamer_jax.core.figures import BLUE, RED, note_in, plain_axes, save_figure
from dreamer_jax.core.text import markdown_table, plus_minus

SHOWN_STEPS = (1, 2, 5, 10, 15, 20, 30, 40, 50)
ACTORS = {"agent": "the agent's actions", "random": "random actions"}


def table(result: dict[str, Any]) -> str:
    """The comparison as a Markdown table: some of the steps, for both sources of actions."""
    names = ("actions", "step", "reward error", "predicted, real", "correlation", "alive: right, really", "drift")
    rows = []
    for actor in ACTORS:
        columns = result[actor]
        for step in (step for step in SHOWN_STEPS if step <= columns["horizon"]):
            k = step - 1
            cells = (
                actor,
                step,
                _number(columns["reward_error"][k], columns["reward_error_ci"][k]),
                f"{_number(columns['reward_mean'][k])}, {_number(columns['reward_real'][k])}",
                _number(columns["correlation"][k]),
                f"{_number(columns['alive_accuracy'][k])}, {_number(columns['alive_real'][k])}",
                _number(columns["drift"][k], columns["drift_ci"][k]),
            )
            rows.append(cells)
    values = [
        f"{actor}: value error {_number(result[actor]['value_error'], result[actor]['value_error_ci'])}, mean value "
        f"{result[actor]['value_mean']:.3g}, mean return {result[actor]['return_mean']:.3g}"
        for actor in ACTORS
        if "value_error" in result[actor]
    ]
    return "\n".join([markdown_table(names, rows), *([""] if values else []), *values])


def _number(value: float | None, half: float | None = None) -> str:
    """A value ± half of its 95% interval, as far as they are known."""
    return plus_minus(value, half, ".3g", ".2g")


def draw_comparison(result: dict[str, Any], path: Path) -> None:
    """Errors over imagined steps, with 95% intervals, to a PNG."""
    figure = Figure(figsize=(14, 3.8), layout="constrained")
    figure.suptitle(f"{result['task']}: imagination from held-out states, the same actions in model and environment")
    panels = figure.subplots(1, 4)
    for (actor, label), color in zip(ACTORS.items(), (BLUE, RED), strict=True):
        columns = result[actor]
        x = np.arange(1, columns["horizon"] + 1)
        _draw_line(panels[0], x, columns["reward_error"], columns["reward_error_ci"], color, label)
        _draw_line(panels[1], x, columns["correlation"], None, color, label)
        _draw_line(panels[2], x, columns["alive_accuracy"], None, color, label)
        _draw_line(panels[3], x, columns["drift"], columns["drift_ci"], color, label)
    titles = (
        "reward: mean absolute error",
        "reward: correlation",
        "alive or ended: share right",
        "latent: drift",
    )
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("imagined steps")
        plain_axes(axes)
        if not axes.lines:
            note_in(axes, "rewards do not vary" if "correlation" in title else "nothing to compare")
    panels[2].set_ylim(0, 1.05)
    panels[0].legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def _draw_line(axes: Axes, x: np.ndarray, values: Sequence, halves: Sequence | None, color: str, label: str) -> None:
    y = np.array([np.nan if value is None else value for value in values], float)
    if np.isnan(y).all():
        return
    axes.plot(x, y, color=color, label=label)
    if halves:
        half = np.array([0.0 if value is None else value for value in halves], float)
        axes.fill_between(x, y - half, y + half, color=color, alpha=0.2, linewidth=0)


def draw_counterfactual(what_if: dict[str, Any], path: Path, task: str) -> None:
    """Each plan's outcome, real and imagined: numbers of vectors as lines, images as strips."""
    plans, first = what_if["outcomes"], next(iter(what_if["outcomes"].values()))["model"]
    images = [name for name, value in first.items() if value.ndim == 4]
    numbers = [(name, i) for name, value in first.items() for i in range(value[0].size)][:8]
    if images:
        _draw_strips(plans, images[0], path, f"{task}: what if, from record {what_if['start']}")
        return
    figure = Figure(figsize=(3.4 * min(4, len(numbers)), 3.2 * -(-len(numbers) // 4)), layout="constrained")
    figure.suptitle(f"{task}: what if, from record {what_if['start']} (solid: environment, dashed: model)")
    panels = np.atleast_1d(figure.subplots(-(-len(numbers) // 4), min(4, len(numbers)))).ravel()
    for axes in panels[len(numbers) :]:
        axes.remove()
    for axes, (name, i) in zip(panels, numbers, strict=False):
        for (plan, outcome), color in zip(plans.items(), ("0.3", BLUE, RED), strict=True):
            for source, style in (("real", "-"), ("model", "--")):
                y = outcome[source][name].reshape(len(outcome[source][name]), -1)[:, i]
                axes.plot(np.arange(1, len(y) + 1), y, style, color=color, label=plan if source == "real" else None)
        axes.set_title(f"{name} {i}", fontsize=10)
        axes.set_xlabel("steps")
        plain_axes(axes)
    figure.axes[0].legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def _draw_strips(plans: dict[str, Any], name: str, path: Path, title: str) -> None:
    figure = Figure(figsize=(11, 1.0 * 2 * len(plans) + 0.6), layout="constrained")
    figure.suptitle(title)
    rows = [(plan, source) for plan in plans for source in ("real", "model")]
    steps = max(len(outcome["model"][name]) for outcome in plans.values())
    for axes, (plan, source) in zip(figure.subplots(len(rows), 1), rows, strict=True):
        images = plans[plan][source][name].astype(np.float32)
        images = images / 255 if source == "real" else np.clip(images, 0, 1)
        images = np.concatenate([images, np.ones((steps, *images.shape[1:]), np.float32)])[:steps]
        strip = np.concatenate(list(np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1)), 1)
        axes.imshow(strip[..., 0] if strip.shape[-1] == 1 else strip[..., :3], cmap="gray", vmin=0, vmax=1)
        axes.set_ylabel(f"{plan}\n{source}", rotation=0, ha="right", va="center", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    save_figure(figure, path)
