"""Runs beside each other: which make one curve, and what its seeds scored at the same frames. Imports no JAX.

A panel is a task with one kind of observation. A group is one curve of it: runs of one protocol that differ in the seed only.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dreamer_jax.core.config import Config
from dreamer_jax.core.presets import flatten
from dreamer_jax.core.statistics import binned_returns
from dreamer_jax.report.published import BIN_WIDTHS, benchmark
from dreamer_jax.report.summary import Run
from dreamer_jax.runs.metrics import of_kind

# What does not make another protocol: it names the run, the task or the machine, or is about the run's length and logs.
_NO_PROTOCOL = (
    "imports",
    "preset",
    "seed",
    "device",
    "runs",
    "env.task",
    "env.obs",
    "env.processes",
    "env.timeout",
    "env.restarts",
    "replay.storage",
)


@dataclass(frozen=True)
class Group:
    """Runs of one task and protocol, one a seed, in order of seed.

    label: the preset, with the values in which it differs from others of that name.
    width: length of a bin of training returns [frames].
    frames: end of the bin at which the seeds are compared [frames]; 0 where no run has filled a bin.
    """

    label: str
    runs: tuple[Run, ...]
    width: int
    frames: int

    @property
    def task(self) -> str:
        return self.runs[0].config.env.task

    def scored(self, frames: int | None = None) -> tuple[Run, ...]:
        """The runs that have filled the bin that ends at `frames` (default: the group's own)."""
        needed = self.frames if frames is None else frames
        return tuple(run for run in self.runs if needed and _first_end(run) <= needed <= last_bin(run, self.width))

    def curves(self) -> np.ndarray:
        """Binned training returns of the scored runs, f64[seeds, frames // width]."""
        curves = [binned_returns(run.rows, self.width, self.frames) for run in self.scored()]
        return np.array(curves).reshape(len(curves), self.frames // self.width)

    def training(self, frames: int | None = None) -> dict[int, float]:
        """Mean training return in the bin that ends at `frames` (default: the group's own), by seed."""
        end = self.frames if frames is None else frames
        return {run.config.seed: float(binned_returns(run.rows, self.width, end)[-1]) for run in self.scored(end)}

    def evaluation(self, policy: str) -> dict[int, float]:
        """Mean return of the evaluation at the end of the finished runs, by seed; policy "deterministic" or "sampled"."""
        return {run.config.seed: run.evaluation[policy]["return_mean"] for run in self.runs if run.evaluation}


@dataclass(frozen=True)
class Panel:
    """A task with one kind of observation; suite: the benchmark with published curves, or None."""

    task: str
    obs: str
    suite: str | None
    groups: tuple[Group, ...]

    @property
    def title(self) -> str:
        sees = {"state": "from state", "pixels": "from pixels", "both": "from state and pixels"}
        return f"{self.task} {sees[self.obs]}" if self.task.startswith("dmc:") else self.task


def make_panels(runs: Sequence[Run]) -> tuple[list[Panel], list[Run]]:
    """Sorts runs into panels -> (panels by task, runs left out).

    Left out is a run of whose task, protocol and seed there is another that got further (or as far, and later by name).
    """
    labels = protocol_labels([run.config for run in runs])
    found: dict[tuple[str, str], dict[str, dict[int, Run]]] = {}
    repeated = []
    for run, label in sorted(zip(runs, labels), key=lambda pair: _progress(pair[0]), reverse=True):
        env = run.config.env
        seeds = found.setdefault((env.task, env.obs), {}).setdefault(label, {})
        if run.config.seed in seeds:
            repeated.append(run)
        else:
            seeds[run.config.seed] = run
    panels = []
    for (task, obs), groups in sorted(found.items()):
        members = [run for seeds in groups.values() for run in seeds.values()]
        suite = benchmark(members[0].config.env)
        width = BIN_WIDTHS[suite] if suite else round_width(max(int(run.counter("frames")) for run in members))
        made = [_make_group(label, [seeds[seed] for seed in sorted(seeds)], width) for label, seeds in sorted(groups.items())]
        panels.append(Panel(task, obs, suite, tuple(made)))
    return panels, repeated


def protocol_labels(configs: Sequence[Config]) -> list[str]:
    """A label for each configuration: its preset, with the fields that tell it from another protocol of that preset.

    "tiny" and "tiny (replay.train_ratio=64)" would not say what the first one has, so both name the field.
    """
    protocols = [_protocol(config) for config in configs]
    labels = []
    for config, own in zip(configs, protocols):
        alike = [other for peer, other in zip(configs, protocols) if peer.preset == config.preset]
        shown = _telling(alike)
        labels.append(config.preset + (f" ({', '.join(f'{name}={_short(own.get(name))}' for name in shown)})" if shown else ""))
    return labels


def last_bin(run: Run, width: int) -> int:
    """Where the last bin ends that a run has filled [frames]; 0 without one, or without an episode that ends in time."""
    end = int(run.counter("frames")) // width * width
    return end if _first_end(run) <= end else 0


def round_width(frames: int) -> int:
    """1, 2 or 5 times a power of ten, so that `frames` has 10 bins or a few more."""
    power = 10 ** max(0, len(str(frames)) - 2)
    return max((step * power for step in (1, 2, 5) if 10 * step * power <= frames), default=1)


def _make_group(label: str, runs: list[Run], width: int) -> Group:
    """The seeds are compared where the shortest finished run ends; where none is finished, where the shortest of all is."""
    ends = [last_bin(run, width) for run in runs if run.finished] or [last_bin(run, width) for run in runs]
    return Group(label, tuple(runs), width, min((end for end in ends if end), default=0))


def _first_end(run: Run) -> float:
    """Where the first training episode ends [frames]; infinity without one."""
    return min((row["frames"] for row in of_kind(run.rows, "episode")), default=math.inf)


def _progress(run: Run) -> tuple[float, bool, str]:
    return run.counter("frames"), run.finished, str(run.path)


def _protocol(config: Config) -> dict[str, Any]:
    """{dotted name: value}, options of extensions included: those that this process has not imported, too."""
    values = flatten(config.model_dump(by_alias=True))
    return {
        name: ",".join(value) if isinstance(value, list) else value
        for name, value in values.items()
        if name not in _NO_PROTOCOL and not name.startswith("train.")
    }


def _telling(protocols: Sequence[Mapping[str, Any]]) -> list[str]:
    """The first fields, in the configuration's order, that together tell all different protocols apart."""
    shown: list[str] = []
    kinds = 1
    for name in dict.fromkeys(name for protocol in protocols for name in protocol):
        split = len({tuple(protocol.get(field) for field in (*shown, name)) for protocol in protocols})
        if split > kinds:
            shown, kinds = [*shown, name], split
    return shown


def _short(value: Any) -> str:
    if value in (None, ""):
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
