"""Atari games as the Dreamer papers play them: sticky actions, up to 30 no-ops, the largest of the last two frames, in grey."""

import re

import gymnasium

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.extensions import register
from dreamer_jax.core.text import nearest, one_line
from dreamer_jax.envs.families.base import Family

NO_OPS = 30
STICKY = 0.25  # chance that an action is the last one once more
EPISODE_FRAMES = 108_000
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # between the words of a name: MsPacman, UpNDown
INSTALL = 'pip install "dreamer_jax[atari]"'


@register("atari")
class Atari(Family):
    """The games of the Arcade Learning Environment."""

    form = "atari:<game>"
    repeats_actions = True

    def make(self, name: str, config: EnvConfig, render: bool) -> gymnasium.Env:
        """Makes the game that `config.task` names, such as atari:ms_pacman; one step takes the whole action repeat.

        Raises:
          EnvError: ale_py or OpenCV is not installed, or there is no such game.
        """
        task = config.task
        try:
            import ale_py
            import cv2  # noqa: F401  # which the preprocessing needs
        except ImportError as error:
            raise EnvError(f"{task} needs {error.name}, which is not installed: {INSTALL}") from None
        gymnasium.register_envs(ale_py)
        ids = [known.removeprefix("ALE/") for known in gymnasium.registry if known.startswith("ALE/") and known.endswith("-v5")]
        games = {_WORDS.sub("_", known.removesuffix("-v5")).lower(): f"ALE/{known}" for known in ids}
        if name not in games:
            raise EnvError(f"{task}: there is no game {name!r}. The games, nearest first: {', '.join(nearest(name, games))}")
        try:
            env = gymnasium.make(
                games[name],
                frameskip=1,
                repeat_action_probability=STICKY,
                full_action_space=False,
                max_num_frames_per_episode=EPISODE_FRAMES,
                disable_env_checker=True,
                render_mode="rgb_array" if render else None,
            )
            return gymnasium.wrappers.AtariPreprocessing(
                env,
                noop_max=NO_OPS,
                frame_skip=config.action_repeat,
                screen_size=config.image_size,
                grayscale_obs=True,
                grayscale_newaxis=True,
            )
        except Exception as error:
            raise EnvError(f"{task} could not be made: {one_line(error)}") from error
