"""Run folders made by hand, as `dreamer train` would leave them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.core.presets import load_config, write_yaml
from dreamer_jax.runs.counters import Counters, HostState

VERSIONS = {"python": "3.11.7", "jax": "0.10.2"}


def make_run(
    folder: Path,
    episodes: Sequence[tuple[int, float]],
    evaluation: float | None = None,
    preset: str = "dmc_proprio_cpu",
    evals: Sequence[tuple[int, float]] = (),
    **overrides: Any,
) -> Path:
    """Writes a run.

    Args:
      episodes: (frames at the end, return) of each training episode; the run is as long as the last of them.
      evaluation: mean return of the deterministic agent at the end; the sampled one has 10 less. None: unfinished.
      evals: (frames, mean return) of evaluations on the way.
      overrides: of the configuration, with "__" for the dot.
    """
    folder.mkdir(parents=True)
    config = load_config(preset, {name.replace("__", "."): value for name, value in overrides.items()})
    write_yaml(config, folder / "config.yaml")
    rows = [{"kind": "episode", **counters(frames), "return": value, "length": 1} for frames, value in episodes]
    rows += [{"kind": "eval", **counters(frames), "return_mean": value, "return_std": 1.0} for frames, value in evals]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = {"versions": VERSIONS, "device": "cpu", "machine": "x86_64", "cores": 2, "git_commit": "0123456789abcdef"}
    (folder / "environment.json").write_text(json.dumps(environment))
    if evaluation is not None:
        results = {"deterministic": result(evaluation), "sampled": result(evaluation - 10)}
        (folder / "evaluation.json").write_text(json.dumps({**counters(episodes[-1][0]), **results}))
    return folder


def empty_record() -> HostState:
    """What a checkpoint holds beside the agent, of a run that has done nothing."""
    rng = dict(np.random.default_rng(0).bit_generator.state)
    return HostState(counters=Counters(), train_ratio=None, replay_end=0, replay_queue=[], replay_rng=rng, recent_returns=[])


def counters(frames: int) -> Mapping[str, float]:
    """Counters of a row at `frames`: action repeat 2, one update in four frames, 100 frames a second."""
    return {"frames": frames, "decisions": frames // 2, "updates": frames // 4, "wall_seconds": frames / 100}


def result(mean: float) -> dict[str, Any]:
    """An evaluation with this mean."""
    return {"return_mean": mean, "return_std": 2.5, "return_min": mean, "return_max": mean, "episodes": 7, "returns": [mean]}
