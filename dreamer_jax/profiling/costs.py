"""What an update costs: time and memory against batch size, sequence length, horizon, model size and number of seeds."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from dreamer_jax.agent.devices import compute_dtype, on_device, resolve_precision, select_device
from dreamer_jax.agent.layout import layout_of
from dreamer_jax.agent.networks import build_networks
from dreamer_jax.agent.train_step import compile_init, count_params
from dreamer_jax.core.config import Config
from dreamer_jax.core.figures import BLUE, RED, plain_axes, save_figure
from dreamer_jax.core.memory import MIB
from dreamer_jax.core.presets import load_config
from dreamer_jax.core.text import markdown_table
from dreamer_jax.play.policy import read_specs
from dreamer_jax.profiling.parts import measure_step
from dreamer_jax.profiling.replay import fill, make_replay
from dreamer_jax.profiling.timing import compare_with_matmul, matmul_rate
from dreamer_jax.runs.folder import describe_environment
from dreamer_jax.training.learner import Learner

SEEDS = "seeds"
AXES: dict[str, tuple[int | str, ...]] = {
    "replay.batch_size": (4, 8, 16, 32),
    "replay.batch_length": (16, 32, 64, 128),
    "behavior.imagination_horizon": (5, 15, 30),
    "model.size": ("1m", "12m", "25m"),
    SEEDS: (1, 2, 4),
}
COLUMNS = (
    "axis",
    "value",
    "step, median (range) [ms]",
    "temporaries [MiB]",
    "state [MiB]",
    "work [GFLOP]",
    "of the matrix rate",
    "compile [s]",
)
LABELS = dict(zip(AXES, ("batch size B", "sequence length T", "horizon H", "parameters [millions]", "seeds"), strict=True))


def measure_curves(preset: str, overrides: Mapping[str, Any], calls: int, command: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Compiles and times the update at every point of `AXES`, one axis at a time, the others as the preset has them.

    Yields:
      what stands beside the measurements (command, settings, versions, device, rate of large matrix products), then a row for
      each point: axis, value, parameters, and what `parts.measure_step` returns.
    """
    base = resolve_precision(load_config(preset, overrides))
    device = select_device(base.device)
    with on_device(base.device):
        rate = matmul_rate(compute_dtype(base), calls)
    yield {
        "command": " ".join(command),
        **describe_environment(str(device.device_kind)),
        "config": base.model_dump(by_alias=True),
        "matmul_flops_per_second": rate,
    }
    measured: dict[str, dict[str, Any]] = {}  # the preset's own point lies on every axis
    for axis, values in AXES.items():
        for value in values:
            seeds = int(value) if axis == SEEDS else 1
            changes = {} if axis == SEEDS else {axis: str(value)}
            config = resolve_precision(load_config(preset, {**overrides, **changes}))
            key = f"{config} {seeds}"
            if key not in measured:
                with on_device(config.device):
                    measured[key] = _measure_point(config, seeds, calls)
                measured[key] |= compare_with_matmul(measured[key], rate)
            yield {"axis": axis, "value": value, **measured[key]}


def _measure_point(config: Config, seeds: int, calls: int) -> dict[str, Any]:
    """One update of `seeds` agents, fed from one replay of random records."""
    layout = layout_of(select_device(config.device))
    nets = build_networks(config, *read_specs(config.env), compute_dtype(config), layout)
    replay = make_replay(nets, config, 2 * config.replay.batch_length + 2, num_envs=1)
    fill(replay, nets, replay.length)
    init = compile_init(nets, config)
    states = [init(jax.random.key(config.seed + i)) for i in range(seeds)]
    learner = Learner(nets, config, states, [replay] * seeds)
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(learner.state) if jnp.issubdtype(leaf.dtype, jnp.number))
    step = measure_step(nets, config, learner, calls)
    return {"parameters": sum(count_params(nets).values()), "state_bytes": state_bytes, **step}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The measurements as a Markdown table."""
    return markdown_table(COLUMNS, map(_cells, rows))


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    median, low, high = (1e3 * row[name] for name in ("median", "min", "max"))
    return (
        LABELS[row["axis"]].removesuffix(" [millions]"),
        row["value"],
        f"{median:,.0f} ({low:,.0f} to {high:,.0f})",
        f"{row['temp_bytes'] / MIB:,.0f}",
        f"{row['state_bytes'] / MIB:,.1f}",
        f"{row['flops'] / 1e9:,.1f}",
        f"{row['fraction_of_matmul_rate']:.0%}",
        f"{row['compile_seconds']:.0f}",
    )


def draw(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Draws time (median and range) and memory over each axis to a PNG, all scales logarithmic; grey lines are proportional."""
    figure = Figure(figsize=(3.1 * len(AXES), 5.6), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(2, len(AXES), sharey="row")
    for column, axis in enumerate(AXES):
        of_axis = [row for row in rows if row["axis"] == axis]
        size = axis == "model.size"
        x = [row["parameters"] / 1e6 if size else row["value"] for row in of_axis]
        time, memory = panels[:, column]
        medians = [1e3 * row["median"] for row in of_axis]
        spread = [[1e3 * abs(row[end] - row["median"]) for row in of_axis] for end in ("min", "max")]
        time.errorbar(x, medians, yerr=spread, marker="o", capsize=3, color=BLUE)
        megabytes = [(row["temp_bytes"] + row["state_bytes"]) / MIB for row in of_axis]
        memory.plot(x, megabytes, marker="o", color=RED)
        for axes, values in ((time, medians), (memory, megabytes)):
            axes.plot(x, [values[0] * at / x[0] for at in x], color="0.75", linewidth=1, zorder=0)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.xaxis.set_major_locator(FixedLocator(x))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(x, [f"{at:.2g}" if size else str(at) for at in x])
            plain_axes(axes)
        memory.set_xlabel(LABELS[axis])
    panels[0, 0].set_ylabel("time of an update [ms]")
    panels[1, 0].set_ylabel("temporaries and state [MiB]")
    save_figure(figure, path)
