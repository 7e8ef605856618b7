"""Observations as the agent sees them: a flat dict of arrays of three kinds, each checked at every step.

An environment that breaks its own promise is the commonest cause of a run that learns nothing, so nothing is
passed on unchecked.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.spaces import ObsSpec, ObsSpecs
from dreamer_jax.core.text import one_line

RESERVED = ("reward", "is_first", "is_last", "is_terminal", "mlp")  # the last is a layer's name, and so are cnn_...
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_NUMBER = (int, float, np.integer, np.floating, np.bool_)
_BOOL = (bool, np.bool_)

# Returns the canonical array, or the reason why there is none.
_Convert = Callable[[Any], np.ndarray | str]


class CanonicalObservation(gymnasium.Wrapper):
    """Flattens and converts the observation, and checks everything that `reset` and `step` return.

    `obs_specs` describes the result. `info` keeps "success" alone (a float), if the environment reports it:
    anything else would only be carried between processes and thrown away.
    """

    def __init__(self, env: gymnasium.Env, name: str):
        super().__init__(env)
        leaves = dict(_leaves(env.observation_space, name))
        self._name = name
        self._steps = 0  # since the reset
        self._paths = {key: path for key, (path, _) in leaves.items()}
        self._promises = {key: space for key, (_, space) in leaves.items()}
        self.obs_specs: ObsSpecs = {key: _spec(key, space, name) for key, (_, space) in leaves.items()}
        self._converts = {key: _converter(self._promises[key], spec) for key, spec in self.obs_specs.items()}
        self.observation_space = spaces.Dict({key: _space(spec) for key, spec in self.obs_specs.items()})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        self._steps = 0
        try:
            result = self.env.reset(seed=seed, options=options)
        except Exception as error:
            raise self._error(f"reset raised {one_line(error)}") from error
        if type(result) is not tuple or len(result) != 2:
            raise self._error(f"reset returned {_describe(result)}; the tuple (observation, info) was expected")
        observation, info = result
        return self._observation(observation), self._info(info)

    def step(self, action: Any):
        self._steps += 1
        try:
            result = self.env.step(action)
        except Exception as error:
            raise self._error(f"step raised {one_line(error)}") from error
        if type(result) is not tuple or len(result) != 5:
            raise self._error(
                f"step returned {_describe(result)}; the tuple (observation, reward, terminated, truncated, info) was expected"
            )
        observation, reward, terminated, truncated, info = result
        # False for NaN too. The agent keeps rewards as float32, where larger ones become infinite.
        if not isinstance(reward, _NUMBER) or not -_FLOAT32_MAX <= reward <= _FLOAT32_MAX:
            raise self._error(f"reward is {_describe(reward)}; one finite number was expected. Return float(reward)")
        if not isinstance(terminated, _BOOL) or not isinstance(truncated, _BOOL):
            key, value = ("truncated", truncated) if isinstance(terminated, _BOOL) else ("terminated", terminated)
            raise self._error(f"{key} is {_describe(value)}; a bool was expected. Return bool({key})")
        return self._observation(observation), float(reward), bool(terminated), bool(truncated), self._info(info)

    def _observation(self, observation: Any) -> dict[str, np.ndarray]:
        result = {}
        for key, convert in self._converts.items():
            value = observation
            try:
                for part in self._paths[key]:
                    value = value[part]
            except (KeyError, TypeError, IndexError):
                raise self._error(
                    f"observation key {key!r} is missing from {_describe(observation)}; the space promised "
                    f"{self._promises[key]}. Return every key at every reset and step"
                ) from None
            array = convert(value)
            if isinstance(array, str):
                raise self._error(f"observation key {key!r} is {array}; the space promised {self._promises[key]}")
            result[key] = array
        return result

    def _info(self, info: Any) -> dict[str, float]:
        if not isinstance(info, dict):
            raise self._error(f"info is {_describe(info)}; a dict was expected")
        for key in ("success", "is_success"):
            if key in info:
                if not isinstance(info[key], _NUMBER) or not math.isfinite(info[key]):
                    raise self._error(f"info[{key!r}] is {_describe(info[key])}; a bool or a finite number was expected")
                return {"success": float(info[key])}
        return {}

    def _error(self, text: str) -> EnvError:
        place = f"at step {self._steps} of the episode" if self._steps else "at reset"
        return EnvError(f"{self._name} {place}: {text}")


def _leaves(space: spaces.Space, name: str) -> Iterator[tuple[str, tuple[tuple[Any, ...], spaces.Space]]]:
    """Yields (flat key, (path to the value, its space)); nested keys are joined by "/"."""
    if not isinstance(space, spaces.Dict):
        yield "observation", ((), space)
        return
    pending = [((key,), inner) for key, inner in space.items()]
    seen: set[str] = set()
    while pending:
        path, inner = pending.pop(0)
        if isinstance(inner, spaces.Dict):
            pending = [((*path, key), deeper) for key, deeper in inner.items()] + pending
            continue
        key = "/".join(map(str, path))
        reserved = key in RESERVED or key.startswith("cnn_")
        if reserved or key in seen:
            problem = "is reserved" if reserved else "occurs twice"
            raise EnvError(f"{name}: observation key {key!r} {problem}. Rename it with gymnasium.wrappers.TransformObservation")
        seen.add(key)
        yield key, (path, inner)
    if not seen:
        raise EnvError(f"{name}: observation space {space} holds no key; at least one was expected")


def _spec(key: str, space: spaces.Space, name: str) -> ObsSpec:
    """What the agent gets for this space.

    Raises:
      EnvError: a space of none of the three kinds.
    """
    shape = space.shape or ()
    if isinstance(space, spaces.Discrete):
        return ObsSpec("discrete", (), classes=int(space.n))
    fix = "Wrap the environment, for instance with gymnasium.wrappers.FlattenObservation"
    if isinstance(space, spaces.Box | spaces.MultiBinary) and not math.prod(shape):
        fix = "Drop it with gymnasium.wrappers.FilterObservation"
    elif isinstance(space, spaces.Box | spaces.MultiBinary) and len(shape) <= 2:
        return ObsSpec("vector", shape)
    elif isinstance(space, spaces.Box) and len(shape) == 3 and space.dtype == np.uint8:
        if not _channels_first(shape):
            return ObsSpec("image", shape)
        fix = "Put the channels last with gymnasium.wrappers.TransformObservation and numpy.moveaxis"
    elif isinstance(space, spaces.Box) and len(shape) == 3:
        fix = "Return images as uint8 [height, width, channels], other arrays with at most 2 axes"
    raise EnvError(
        f"{name}: observation key {key!r} has space {space}; a Box of rank 0 to 2, a uint8 Box [height, width, channels], "
        f"Discrete, MultiBinary or a Dict of these was expected. {fix}"
    )


def _channels_first(shape: tuple[int, ...]) -> bool:
    return shape[0] in (1, 3, 4) and min(shape[1:]) >= 32


def _space(spec: ObsSpec) -> spaces.Space:
    if spec.kind == "discrete":
        return spaces.Discrete(spec.classes)
    if spec.kind == "image":
        return spaces.Box(0, 255, spec.shape, np.uint8)
    return spaces.Box(-np.inf, np.inf, spec.shape, np.float32)


def _converter(space: spaces.Space, spec: ObsSpec) -> _Convert:
    if isinstance(space, spaces.Discrete):
        return _discrete_converter(int(space.start), int(space.n))
    if spec.kind == "image":
        return _image_converter(spec.shape)
    return _vector_converter(spec.shape, np.dtype(space.dtype or np.float32))


def _vector_converter(shape: tuple[int, ...], promised: np.dtype) -> _Convert:
    def convert(value: Any) -> np.ndarray | str:
        array = np.asarray(value)
        if array.shape != shape or not np.can_cast(array.dtype, promised, "same_kind"):
            return _describe(value)
        if array.dtype != np.float32:
            with np.errstate(over="ignore"):  # a float64 too large for float32 is reported below
                array = array.astype(np.float32)
        if not np.isfinite(array).all():
            first = np.argwhere(~np.isfinite(array))[0]
            return f"{array[tuple(first)]} at index {first.tolist()} (as float32)"
        return array

    return convert


def _image_converter(shape: tuple[int, ...]) -> _Convert:
    def convert(value: Any) -> np.ndarray | str:
        # Strict: a cast from any other dtype can wrap around without a word.
        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != np.uint8:
            return _describe(value)
        return value

    return convert


def _discrete_converter(start: int, classes: int) -> _Convert:
    def convert(value: Any) -> np.ndarray | str:
        array = np.asarray(value)
        if array.shape != () or array.dtype.kind not in "iu":
            return _describe(value)
        index = int(array) - start
        if not 0 <= index < classes:
            return _describe(value)
        return np.asarray(index, np.int32)

    return convert


def _describe(value: Any) -> str:
    """A value in a few words, for errors."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of {value.dtype} {list(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with keys {sorted(map(str, value))}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"
