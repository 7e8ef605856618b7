"""Videos of a trained agent that plays."""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import imageio.v3 as iio
import numpy as np

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import RAISED_OUTSIDE, DreamerError, EnvError
from dreamer_jax.core.files import atomic_write
from dreamer_jax.core.text import one_line
from dreamer_jax.envs import env_seeds, make_vector_env
from dreamer_jax.play.policy import EVALUATION_SEED, Policy
from dreamer_jax.play.rollout import one_episode, policy_actions

logger = logging.getLogger(__name__)


def write_episode(policy: Policy, env: EnvConfig, seed: int, path: Path) -> None:
    """Records one episode as a video, and logs where it is, or why there is none. Raises no error.

    The episode is the first one that an evaluation with this seed plays. Each frame is written as soon as it is drawn.
    """
    try:
        with recorded_episode(policy, env, seed) as (frames, fps):
            path.parent.mkdir(exist_ok=True)
            write_video(frames, path, fps)
    except DreamerError as error:
        logger.warning("no video: %s", error)
    except RAISED_OUTSIDE as error:  # rendering fails in many ways, and a video is not worth a run's results
        logger.warning("no video: %s", one_line(error))
    else:
        logger.info("wrote %s", path)


@contextlib.contextmanager
def recorded_episode(policy: Policy, env: EnvConfig, seed: int) -> Iterator[tuple[Iterator[np.ndarray], int]]:
    """Plays one episode -> frames uint8[H, W, 3] of all its records, frames per second of real time.

    Within the block the episode is played on and drawn as its frames are asked for; none is kept here.

    Raises:
      EnvError: the environment cannot render, or draws something else. Whatever its `render` raises comes through.
    """
    with contextlib.closing(make_vector_env(env, env_seeds(EVALUATION_SEED + seed, 1), render=True)) as envs:
        yield (envs.render()[0] for _ in one_episode(envs, policy_actions(policy, 1, seed))), envs.frame_rate


def write_video(frames: Iterable[np.ndarray], path: Path, fps: int) -> None:
    """Writes frames uint8[H, W, 3] of one size as an H.264 mp4, each as it comes; the file is whole or not there.

    An odd height or width is padded by one repeated row or column, because yuv420p video has even sizes.

    Raises:
      EnvError: no frames, or frames of another shape or dtype.
      OSError: the file cannot be written.
    """
    # PyAV encodes in this process: a child process would be a fork of JAX's threads.
    mp4 = {"extension": ".mp4", "container": "mp4"}  # which the name of the temporary file does not tell
    shape = None
    with atomic_write(path) as file, iio.imopen(cast(BinaryIO, file), "w", plugin="pyav", **mp4) as video:
        for frame in frames:
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[-1] != 3 or frame.shape != (shape or frame.shape):
                raise EnvError(f"video frame is {frame.dtype}{list(frame.shape)}; expected uint8[H, W, 3], all of one size")
            if shape is None:
                video.init_video_stream("libx264", fps=fps)
            shape = frame.shape
            video.write_frame(np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode="edge"))
        if shape is None:
            raise EnvError(f"no frames to write to {path}")
