"""Stopping a run on its way, and everything in a run folder that must not depend on that."""

import contextlib
import json
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dreamer_jax.runs.checkpoint import Checkpoints
from dreamer_jax.runs.metrics import MEASURED, read_metrics
from dreamer_jax.training import loop


def stop_next_run(patch: pytest.MonkeyPatch, frames: int) -> None:
    """The next run stops at `frames`, as at Ctrl-C; those after it do not."""
    limit, retire = [frames], loop.Training._retire_finished

    def stopping(self):
        retire(self)
        if limit and self.collector.frames >= limit[0]:
            self.stop.requested = True
            limit.clear()

    patch.setattr(loop.Training, "_retire_finished", stopping)


def rows(run: Path) -> list[dict]:
    """All rows but for times and memory, as text: NaN is not equal to itself."""
    return [
        repr({name: value for name, value in row.items() if name not in MEASURED})
        for row in read_metrics(run / "metrics.jsonl")
    ]


def last(run: Path) -> dict[str, np.ndarray]:
    """Everything in a run's last checkpoint but for times: agent, what is in flight, counters, and the replay's latents."""
    with contextlib.closing(Checkpoints(run)) as checkpoints:
        frames = checkpoints.resolve("last")
        host = checkpoints.restore_host(frames).model_dump()
    del host["counters"]["wall_seconds"], host["config"]
    found = {"host": np.array(json.dumps(host, sort_keys=True))}
    for item in ("agent", "in_flight"):
        saved = ocp.StandardCheckpointer().restore((run / "checkpoints" / str(frames) / item).absolute())
        leaves = jax.tree_util.tree_leaves_with_path(saved)
        found |= {f"{item}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in leaves}
    latents = run / "replay" / f"latents-{frames}.npz"
    if latents.exists():
        with np.load(latents) as file:
            found |= dict(file)
    return found


def assert_same(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, two[name], err_msg=name)
