"""Published learning curves on the DeepMind Control suite, as numbers to compare runs with. Imports no JAX.

`published.csv` beside this file holds the mean over seeds of the returns that danijar/dreamerv3, danijar/dreamerv2 and
danijar/dreamer release in their `scores/` folders, in bins of environment steps.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dreamer_jax.core.config import EnvConfig

FILE = Path(__file__).resolve().parent / "published.csv"
BIN_WIDTHS = {"dmc_proprio": 25_000, "dmc_vision": 50_000}  # [frames]
RETURN_SCALE = 1000.0  # largest return of a dmc task; normalised return = return / this


class Method(NamedTuple):
    """How a method's returns were measured: in training episodes, or in evaluation episodes apart from training."""

    label: str
    returns: Literal["training", "evaluation"]
    source: str


# Dreamer V1 and V2: their README files plot "test/return" and "eval_return".
METHODS = {
    "dreamerv3": Method("DreamerV3", "training", "danijar/dreamerv3"),
    "ppo": Method("PPO", "training", "danijar/dreamerv3, fixed hyper-parameters"),
    "dreamerv2": Method("DreamerV2", "evaluation", "danijar/dreamerv2"),
    "dreamerv1": Method("DreamerV1", "evaluation", "danijar/dreamer"),
    "d4pg": Method("D4PG", "evaluation", "danijar/dreamerv3"),
    "dmpo": Method("DMPO", "evaluation", "danijar/dreamerv3"),
    "mpo": Method("MPO", "evaluation", "danijar/dreamerv3"),
    "ddpg": Method("DDPG", "evaluation", "danijar/dreamerv3"),
    "drqv2": Method("DrQ-v2", "evaluation", "danijar/dreamerv3"),
    "curl": Method("CURL", "evaluation", "danijar/dreamerv3"),
    "sac": Method("SAC", "evaluation", "danijar/dreamerv3"),
}


class PublishedAggregate(NamedTuple):
    """Mean and median over all tasks of a benchmark, of methods whose curves are not held here."""

    benchmark: str
    frames: int
    tasks: int
    method: str
    returns: Literal["training", "evaluation"]
    mean: int
    median: int


AGGREGATES = (
    PublishedAggregate("dmc_proprio", 500_000, 18, "MR.Q", "evaluation", 846, 912),
    PublishedAggregate("dmc_proprio", 500_000, 18, "TD-MPC2", "evaluation", 845, 895),
    PublishedAggregate("dmc_proprio", 500_000, 18, "SimbaV2", "evaluation", 834, 887),
    PublishedAggregate("dmc_proprio", 500_000, 18, "DreamerV3, frames 450k to 500k", "training", 741, 843),
    PublishedAggregate("dmc_vision", 1_000_000, 20, "MR.Q", "evaluation", 818, 901),
    PublishedAggregate("dmc_vision", 1_000_000, 20, "DreamerV3", "training", 786, 858),
    PublishedAggregate("dmc_vision", 1_000_000, 20, "DrQ-v2", "evaluation", 705, 770),
)


@dataclass(frozen=True)
class Curve:
    """Mean over seeds of a method's returns on a task.

    env_steps i64[N]: where each bin ends [frames]. returns f64[N]: sum of rewards of an episode.
    """

    method: str
    seeds: str
    env_steps: np.ndarray
    returns: np.ndarray

    def at(self, frames: int) -> float | None:
        """The value of the bin that ends at `frames`; None where there is none."""
        index = np.flatnonzero(self.env_steps == frames)
        return float(self.returns[index[0]]) if index.size else None


def benchmark(env: EnvConfig) -> str | None:
    """ "dmc_proprio" for dmc tasks from their state, "dmc_vision" from pixels, None for everything else."""
    if not env.task.startswith("dmc:"):
        return None
    return {"state": "dmc_proprio", "pixels": "dmc_vision"}.get(env.obs)


def published_curves(suite: str | None, task: str) -> dict[str, Curve]:
    """Curves of a benchmark's task ("dmc:walker_walk") by method, in the order of METHODS; empty where none is published."""
    curves = _read().get((suite, task), {})
    return {name: curves[name] for name in METHODS if name in curves}


def methods_of(suite: str | None) -> list[str]:
    """Names of the methods that have curves on a benchmark, in the order of METHODS."""
    found = {name for (held, _), curves in _read().items() if held == suite for name in curves}
    return [name for name in METHODS if name in found]


@cache
def _read() -> dict[tuple[str | None, str], dict[str, Curve]]:
    curves: dict[tuple[str | None, str], dict[str, Curve]] = {}
    with FILE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(line for line in file if not line.startswith("#")):
            returns = np.array(row["returns"].split(), float)
            env_steps = int(row["first_env_steps"]) + int(row["bin_width"]) * np.arange(len(returns))
            curve = Curve(row["method"], row["seeds"], env_steps, returns)
            curves.setdefault((row["benchmark"], row["task"]), {})[row["method"]] = curve
    return curves
