"""Where a run's numbers go beside `metrics.jsonl`: TensorBoard and Weights & Biases. Imports no JAX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError


class Sink(Protocol):
    """Takes the numbers of one row after another."""

    def write(self, scalars: Mapping[str, float], counters: Mapping[str, Any]) -> None:
        """Takes one row: its numbers as "<kind>/<name>", and frames, decisions, updates and wall_seconds."""

    def close(self) -> None:
        """Ends the writing."""


class TensorBoard:
    """Event files in the run's folder, over frames.

    Args:
      folder: of the event files.
      last_frames: frames of the last row that is kept of a resumed run; later ones are hidden. None for a new run.
    """

    def __init__(self, folder: Path, last_frames: int | None = None) -> None:
        from tensorboardX import SummaryWriter

        # A queue without end: its writer ends where a disk is full, and nobody would take anything out of a short one.
        purge_step = None if last_frames is None else last_frames + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, max_queue=0)

    def write(self, scalars: Mapping[str, float], counters: Mapping[str, Any]) -> None:
        """As `Sink.write`."""
        for tag, value in scalars.items():
            self._writer.add_scalar(tag, value, global_step=counters["frames"])

    def close(self) -> None:
        """As `Sink.close`."""
        self._writer.close()


class WeightsAndBiases:
    """Starts or continues the W&B run of a run's folder; its x axis is frames, so that a resumed run may step back.

    Raises:
      ConfigError: wandb is not installed.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        name = f"{folder.resolve().parent.name}-{folder.resolve().name}"
        values = config.model_dump(by_alias=True)
        self._run = _import_wandb().init(
            project="dreamer_jax", id=name, name=name, dir=str(folder), resume="allow", config=values
        )
        self._run.define_metric("*", step_metric="frames")

    def write(self, scalars: Mapping[str, float], counters: Mapping[str, Any]) -> None:
        """As `Sink.write`."""
        self._run.log({**scalars, **counters})

    def close(self) -> None:
        """As `Sink.close`."""
        self._run.finish()


def require_packages(config: Config) -> None:
    """Raises ConfigError, with the command that installs it, when the package of a sink is missing that is asked for."""
    if config.train.wandb:
        _import_wandb()


def open_sinks(folder: Path, config: Config, last_frames: int | None = None) -> list[Sink]:
    """The sinks that a configuration asks for. Call `require_packages` before anything is written.

    Args:
      folder: the run's.
      config: `train.tensorboard` and `train.wandb` choose.
      last_frames: as for `TensorBoard`.

    Raises:
      ConfigError: the package of one is not installed.
    """
    sinks: list[Sink] = []
    if config.train.tensorboard:
        sinks.append(TensorBoard(folder / "tensorboard", last_frames))
    if config.train.wandb:
        sinks.append(WeightsAndBiases(folder, config))
    return sinks


def _import_wandb() -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            "train.wandb=true needs the wandb package: pip install wandb (or leave it out with --train.wandb false)"
        ) from None
    return wandb
