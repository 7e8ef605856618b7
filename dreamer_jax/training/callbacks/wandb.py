"""Weights & Biases: a run there for each run folder."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.extensions import register
from dreamer_jax.runs.metrics import COUNTERS
from dreamer_jax.training.callbacks.base import Callback, Row, RunView, scalars
from dreamer_jax.training.callbacks.gif import encode_gif


@register("wandb")
class WeightsAndBiases(Callback):
    """Starts or continues the W&B runs of run folders; their x axis is frames, so that a resumed run may step back.

    Raises:
      ConfigError: wandb is not installed.
    """

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        try:
            import wandb  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise ConfigError(
                "train.wandb=true needs the wandb package: pip install wandb (or leave it out with --train.wandb false)"
            ) from None
        self._wandb: Any = wandb
        self._runs: dict[Path, Any] = {}

    def start(self, runs: Sequence[RunView]) -> None:
        """Starts the W&B runs, or continues them."""
        for run in runs:
            folder = run.folder.resolve()
            name = f"{folder.parent.name}-{folder.name}"
            values = run.config.model_dump(by_alias=True)
            own: dict[str, Any] = {"reinit": "create_new"} if len(runs) > 1 else {}
            begun = self._wandb.init(
                project="dreamer_jax", id=name, name=name, dir=str(run.folder), resume="allow", config=values, **own
            )
            begun.define_metric("*", step_metric="frames")
            self._runs[run.folder] = begun

    def row(self, run: RunView, row: Row) -> None:
        """Logs a row's numbers."""
        self._runs[run.folder].log({**scalars(row), **{name: row[name] for name in COUNTERS}})

    def media(self, run: RunView, name: str, frames: np.ndarray, fps: int) -> None:
        """Logs a picture or a video."""
        if len(frames) == 1:
            shown = self._wandb.Image(frames[0])
        else:
            shown = self._wandb.Video(io.BytesIO(encode_gif(frames, fps)), format="gif")
        self._runs[run.folder].log({name: shown, "frames": run.counters.frames})

    def end(self, runs: Sequence[RunView], status: str) -> None:
        """Ends the W&B runs."""
        for run in self._runs.values():
            with contextlib.suppress(OSError):
                run.finish()
