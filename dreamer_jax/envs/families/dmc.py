"""The DeepMind Control suite: `dmc:<domain>_<task>`. dm_control is imported with the first task that is made."""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.extensions import register
from dreamer_jax.core.quiet import errors_only
from dreamer_jax.core.text import nearest, one_line
from dreamer_jax.envs.families.base import Family
from dreamer_jax.envs.families.gl import choose_gl, gl_advice

DEFAULT_CAMERAS = {"quadruped": 2}  # the author's choice; camera 0 in all other domains
RENDER_SIZE = (240, 320)
# dm_control's own time limits are 1,000 control steps in 49 of 51 tasks; lqr_lqr_2_1 and lqr_lqr_6_2 have none.
EPISODE_STEPS = 1000
# MuJoCo's mjMAXVAL: what the action spec shows for a motor without limits (lqr's).
_UNLIMITED = 1e10
_SEEDED_MODEL = "lqr"  # draws its model as well as the episode
_NEEDS_GL = "quadruped_escape"  # it hands its random terrain to the renderer at every reset, drawn or not


@register("dmc")
class ControlSuite(Family):
    """The tasks of the DeepMind Control suite."""

    form = "dmc:<domain>_<task>"

    def make(self, name: str, config: EnvConfig, render: bool) -> "DmcEnv":
        """Makes the suite task that `config.task` names.

        Raises:
          EnvError: dm_control is not installed, there is no such task or camera, or images are wanted and nothing can draw.
        """
        task = config.task
        suite = _import_suite(task)
        tasks = {f"{domain}_{kind}": (domain, kind) for domain, kind in suite.ALL_TASKS}
        if name not in tasks:
            raise EnvError(
                f"{task}: dm_control has no task {name!r}. Its tasks, nearest first: {', '.join(nearest(name, tasks))}"
            )
        can_draw = choose_gl() is not None
        if not can_draw and config.obs != "state":
            raise EnvError(f"{task} with env.obs={config.obs!r} needs OpenGL: {gl_advice()}, or use --env.obs state")
        if not can_draw and name == _NEEDS_GL:
            raise EnvError(f"{task} needs OpenGL for its terrain: {gl_advice()}, or choose another task")
        domain, kind = tasks[name]

        def load(seed: int | None) -> Any:
            with errors_only("absl"):  # MuJoCo remarks on the suite's own models, once for each cheetah
                return suite.load(domain, kind, task_kwargs={"random": seed})

        try:
            env = DmcEnv(
                load,
                seeded_model=domain == _SEEDED_MODEL,
                obs=config.obs,
                image_size=config.image_size,
                camera=DEFAULT_CAMERAS.get(domain, 0) if config.camera is None else config.camera,
                frame_every=config.action_repeat,
                render_mode="rgb_array" if render and can_draw else None,
            )
        except Exception as error:
            raise EnvError(f"{task} could not be made: {one_line(error)}. Is mujoco>=3.17,<4 installed?") from error
        if env.camera >= len(env.camera_names):
            env.close()
            known = ", ".join(f"{index} ({camera})" for index, camera in enumerate(env.camera_names))
            raise EnvError(f"{task}: there is no env.camera={env.camera}; the model has {known}")
        return env


class DmcEnv(gymnasium.Env):
    """A dm_control environment with gymnasium's interface.

    The observation has a key for every float entry of the simulator's spec that is not empty ("state"), the key
    "image" uint8 [size, size, 3] ("pixels"), or both. One step is one control step. A discount of 0 is a true end; every
    other last step is a time limit.

    Args:
      load: makes the simulator from a seed (None: a random one).
      seeded_model: a seeded reset makes it anew, since its model depends on the seed as well; elsewhere that takes a tenth of a
        second for the same episode.
      frame_every: images are drawn at multiples of this step and at the end; between them the last one is shown. It is
        the action repeat, which drops them.
    """

    def __init__(
        self,
        load: Callable[[int | None], Any],
        seeded_model: bool = False,
        obs: str = "state",
        image_size: int = 64,
        camera: int = 0,
        frame_every: int = 1,
        render_mode: str | None = None,
    ):
        self._load, self._seeded_model = load, seeded_model
        self._simulator: Any = load(None)
        self._cameras: dict[tuple[int, int], Any] = {}  # by height and width
        self._count = 0  # control steps since the reset
        self._frame_every = frame_every
        self._image_shape = (image_size, image_size, 3) if obs != "state" else None
        self._image = np.empty(0)  # the last one
        self.camera = camera
        model = self._simulator.physics.model
        self.camera_names: list[str] = [model.id2name(index, "camera") for index in range(model.ncam)]
        self.render_mode = render_mode
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": 1 / self._simulator.control_timestep()}
        self.action_space = _action_space(self._simulator.action_spec())
        spec = self._simulator.observation_spec() if obs != "pixels" else {}
        floats = {key: value for key, value in spec.items() if np.issubdtype(value.dtype, np.floating) and 0 not in value.shape}
        boxes: dict[str, spaces.Space] = {
            key: spaces.Box(-np.inf, np.inf, value.shape, np.float64) for key, value in floats.items()
        }
        self._state_keys = list(boxes)
        if self._image_shape:
            boxes["image"] = spaces.Box(0, 255, self._image_shape, np.uint8)
        self.observation_space = spaces.Dict(boxes)

    @property
    def simulator(self) -> Any:
        """The dm_control environment. A seeded reset can replace it."""
        return self._simulator

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        if seed is not None and self._seeded_model:
            self._free()
            self._simulator = self._load(seed)
        elif seed is not None:
            self._simulator.task.random.seed(seed)
        self._count = 0
        return self._observation(self._simulator.reset()), {}

    def step(self, action: np.ndarray):
        step = self._simulator.step(action)
        self._count += 1
        terminated = step.last() and step.discount == 0
        truncated = not terminated and (step.last() or self._count >= EPISODE_STEPS)
        observation = self._observation(step, terminated or truncated)
        return observation, float(step.reward), bool(terminated), bool(truncated), {}

    def render(self) -> np.ndarray | None:
        """What the camera sees, uint8 [240, 320, 3]."""
        return self._draw(*RENDER_SIZE) if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Frees the simulator and its OpenGL contexts."""
        self._free()

    def _observation(self, step: Any, last: bool = False) -> dict[str, np.ndarray]:
        observation = {key: step.observation[key] for key in self._state_keys}
        if self._image_shape:
            if last or self._count % self._frame_every == 0:
                self._image = self._draw(*self._image_shape[:2])
            observation["image"] = self._image
        return observation

    def _draw(self, height: int, width: int) -> np.ndarray:
        if (height, width) not in self._cameras:  # kept: a new one for each frame costs a millisecond or two
            camera = importlib.import_module("dm_control.mujoco").Camera
            self._cameras[height, width] = camera(self._simulator.physics, height, width, self.camera)
        return self._cameras[height, width].render().copy()  # the camera uses its buffer again

    def _free(self) -> None:
        self._cameras.clear()
        if self._simulator is not None:
            self._simulator.physics.free()
            self._simulator = None


def _action_space(spec: Any) -> spaces.Box:
    """The simulator's bounds; [-1, 1] for motors without limits, so that these take the agent's numbers as they are."""
    low, high = np.broadcast_to(spec.minimum, spec.shape), np.broadcast_to(spec.maximum, spec.shape)
    unlimited = np.maximum(-low, high) >= _UNLIMITED
    return spaces.Box(np.where(unlimited, -1.0, low), np.where(unlimited, 1.0, high), dtype=np.float64)


def _import_suite(task: str) -> Any:
    if importlib.util.find_spec("dm_control") is None:
        raise EnvError(f"{task} needs dm_control, which is not installed. Try: {install_line()}")
    choose_gl()
    try:
        return importlib.import_module("dm_control.suite")
    except ModuleNotFoundError as error:
        raise EnvError(f"{task}: dm_control misses the package {error.name!r}. Try: {install_line()}") from None
    except Exception as error:  # a MUJOCO_GL of the user's that cannot even be loaded
        raise EnvError(f"{task}: dm_control could not be imported: {one_line(error)}; {gl_advice()}") from error


def install_line(version: tuple[int, int] = sys.version_info[:2]) -> str:
    """How to get dm_control: its labmaze, which the suite does not use, has no wheel for Python 3.13 and later."""
    if version < (3, 13):
        return "pip install dm_control 'mujoco>=3.17,<4'"
    return "pip install dm-env lxml && pip install --no-deps dm_control"
