"""TensorBoard event files in a run's folder, over frames."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tensorboardX import SummaryWriter
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

from dreamer_jax.core.extensions import register
from dreamer_jax.training.callbacks.base import Callback, Row, RunView, scalars
from dreamer_jax.training.callbacks.gif import encode_gif


@register("tensorboard")
class TensorBoard(Callback):
    """Writes the numbers of all rows as "<kind>/<name>", pictures and videos. What comes again in a resumed run is hidden."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._writers: dict[Path, SummaryWriter] = {}

    def start(self, runs: Sequence[RunView]) -> None:
        """Opens the event files."""
        for run in runs:
            purge_step = None if run.last_frames is None else run.last_frames + 1
            # A queue without end: its writer ends where a disk is full, and nobody would take anything out of a short one.
            self._writers[run.folder] = SummaryWriter(str(run.folder / "tensorboard"), purge_step=purge_step, max_queue=0)

    def row(self, run: RunView, row: Row) -> None:
        """Writes a row's numbers."""
        for tag, value in scalars(row).items():
            self._writers[run.folder].add_scalar(tag, value, global_step=row["frames"])

    def media(self, run: RunView, name: str, frames: np.ndarray, fps: int) -> None:
        """Writes a picture, or a video as an animated GIF, which TensorBoard plays among the images."""
        writer, step = self._writers[run.folder], run.counters.frames
        if len(frames) == 1:
            writer.add_image(name, frames[0], step, dataformats="HWC")
            return
        _, height, width, _ = frames.shape
        # `SummaryWriter.add_video` needs moviepy to make the same bytes.
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encode_gif(frames, fps))
        assert writer.file_writer
        assert writer.file_writer
        writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=image)]), step)

    def end(self, runs: Sequence[RunView], status: str) -> None:
        """Closes the event files. Whoever could not write was told then."""
        for writer in self._writers.values():
            with contextlib.suppress(OSError):
                writer.close()
