"""From an environment's own observation to what the agent sees: a flat dict of arrays, each checked against its space.

An environment that breaks its own promise is the commonest cause of a run that learns nothing, so nothing is
passed on unchecked.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamer_jax.core.errors import RAISED_OUTSIDE, EnvError
from dreamer_jax.core.extensions import DOORS, ObservationNetwork
from dreamer_jax.core.spaces import BUILT_IN, ObsSpec, ObsSpecs
from dreamer_jax.core.text import brief, one_line
from dreamer_jax.envs.advice import channels_first, observation_advice, space_text

RESERVED = ("reward", "is_first", "is_last", "is_terminal", "mlp")  # the last is a layer's name, and so are cnn_...

# Returns the canonical array, or the reason why there is none.
_Convert = Callable[[Any], np.ndarray | str]


class ObservationConversion:
    """Turns an environment's own observations into {name: array}.

    A Dict is flattened: the keys that lead to a value are joined by "/". Any other space has the name "observation".

    Args:
      space: the environment's own observation space.
      name: the task, for messages.
      kinds: names of imported kinds of observation, asked in this order before the built-in ones.
      known: specs that need not be asked for.

    Attributes:
      specs: what each array holds.

    Raises:
      EnvError: a space that the agent cannot use.
      ConfigError: a kind that is not imported.
    """

    def __init__(
        self, space: spaces.Space[Any], name: str, kinds: Sequence[str] = (), known: Mapping[str, ObsSpec] | None = None
    ) -> None:
        leaves = dict(_leaves(space, name))
        known = known or {}
        self.space = space
        self.specs: ObsSpecs = {
            key: known.get(key) or _spec(key, path, space, leaf, name, kinds) for key, (path, leaf) in leaves.items()
        }
        self._paths = {key: path for key, (path, _) in leaves.items()}
        self._promises = {key: leaf for key, (_, leaf) in leaves.items()}
        self._converts = {key: _converter(self._promises[key], spec) for key, spec in self.specs.items()}

    def __call__(self, observation: Any) -> dict[str, np.ndarray]:
        """Converts one observation.

        Raises:
          EnvError: it is not what the space promised. The message does not say where; the caller knows.
        """
        result = {}
        for key, convert in self._converts.items():
            value = observation
            try:
                for part in self._paths[key]:
                    value = value[part]
            except (KeyError, TypeError, IndexError):
                raise EnvError(
                    f"observation key {key!r} is missing from {describe(observation)}; the space promised "
                    f"{space_text(self._promises[key])}. Return every key at every reset and step"
                ) from None
            array = convert(value)
            if isinstance(array, str):
                raise EnvError(f"observation key {key!r} is {array}; the space promised {space_text(self._promises[key])}")
            result[key] = array
        return result


def canonical_space(spec: ObsSpec) -> spaces.Space[Any]:
    """The gymnasium space of what the agent sees."""
    if spec.kind == "discrete":
        return spaces.Discrete(spec.classes)
    if spec.dtype.kind in "iu":
        limits = np.iinfo(spec.dtype)
        return spaces.Box(int(limits.min), int(limits.max), spec.shape, spec.dtype)
    low, high = (0, 1) if spec.dtype.kind == "b" else (-np.inf, np.inf)
    return spaces.Box(low, high, spec.shape, spec.dtype)


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
        raise EnvError(f"{name}: observation space {space_text(space)} holds no key; at least one was expected")


def _spec(key: str, path: Sequence[Any], whole: spaces.Space, space: spaces.Space, name: str, kinds: Sequence[str]) -> ObsSpec:
    """What the agent gets for the space that lies at `path` in the whole one.

    Raises:
      EnvError: a space of none of the kinds.
    """
    for kind in kinds:
        spec = _imported_spec(DOORS["observation"].get(kind), key, space, name)
        if spec is not None:
            return spec
    shape = space.shape or ()
    if isinstance(space, spaces.Discrete):
        return ObsSpec("discrete", (), classes=int(space.n))
    if isinstance(space, spaces.Box | spaces.MultiBinary) and math.prod(shape):
        if len(shape) <= 2:
            return ObsSpec("vector", shape)
        if (high := _image_high(space)) and not channels_first(shape):
            return ObsSpec("image", shape, high=high)
    raise EnvError(
        f"{name}: observation key {key!r} has space {space_text(space)}; a Box of rank 0 to 2, a uint8 image [height, width, "
        f"channels], Discrete, MultiBinary or a Dict of these was expected. {observation_advice(space, path, whole)}"
    )


def _imported_spec(kind: type[ObservationNetwork], key: str, space: spaces.Space, name: str) -> ObsSpec | None:
    """What an imported kind makes of a space; None where it is not of this kind."""
    place = f"{name}: observation key {key!r}, kind {kind.name!r}"
    try:
        spec = kind.spec(space)
    except RAISED_OUTSIDE as error:
        raise EnvError(f"{place}: spec raised {one_line(error)}") from error
    if spec is not None and (not isinstance(spec, ObsSpec) or spec.kind != kind.name):
        raise EnvError(f"{place}: spec returned {spec}; None or an ObsSpec of kind {kind.name!r} was expected")
    return spec


def _image_high(space: spaces.Space) -> int | tuple[int, ...] | None:
    """The largest value of an image, or of each channel; None for what is no image [height, width, channels].

    An image is what fits into uint8 without a loss: bools, or integers from 0 to 255. Values that begin in the upper half of
    their range would hardly differ for the agent, so these are no image either.
    """
    if isinstance(space, spaces.MultiBinary):
        return 1 if len(space.shape) == 3 else None
    if not isinstance(space, spaces.Box) or len(space.shape) != 3 or space.dtype.kind not in "biu":
        return None
    low, high = (bound.reshape((-1, space.shape[-1])).astype(int) for bound in (space.low, space.high))  # [H*W, C]
    low, high = low.min(0), np.maximum(1, high.max(0))  # a channel that is always 0 has no range to divide by
    if low.min() < 0 or high.max() > 255 or (2 * low > high).any():
        return None
    highs = tuple(high.tolist())
    return highs[0] if len(set(highs)) == 1 else highs


def _converter(space: spaces.Space, spec: ObsSpec) -> _Convert:
    if spec.kind not in BUILT_IN:
        return _imported_converter(DOORS["observation"].get(spec.kind), spec)
    if isinstance(space, spaces.Discrete):
        return _discrete_converter(int(space.start), int(space.n))
    if spec.kind == "image":
        return _image_converter(spec.shape, np.dtype(space.dtype or np.uint8), _image_high(space) or 255)
    return _vector_converter(spec.shape, np.dtype(space.dtype or np.float32))


def _imported_converter(kind: type[ObservationNetwork], spec: ObsSpec) -> _Convert:
    def convert(value: Any) -> np.ndarray | str:
        try:
            array = kind.convert(value, spec)
        except RAISED_OUTSIDE as error:
            reason = brief(error) if isinstance(error, ValueError) else one_line(error)
            return f"{describe(value)}, which kind {spec.kind!r} cannot convert ({reason})"
        if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (spec.shape, spec.dtype):
            expected = f"an array of {spec.dtype} {list(spec.shape)} was expected"
            return f"{describe(value)}, of which kind {spec.kind!r} makes {describe(array)}; {expected}"
        return _not_finite(array) or array

    return convert


def _vector_converter(shape: tuple[int, ...], promised: np.dtype) -> _Convert:
    def convert(value: Any) -> np.ndarray | str:
        array = np.asarray(value)
        if array.shape != shape or not np.can_cast(array.dtype, promised, "same_kind"):
            return describe(value)
        if array.dtype != np.float32:
            with np.errstate(over="ignore"):  # a float64 too large for float32 is reported below
                array = array.astype(np.float32)
        if not np.isfinite(array).all():
            return f"{_not_finite(array)} (as float32)"
        return array

    return convert


def _not_finite(array: np.ndarray) -> str:
    """The first number that is not finite and its index; "" where all are."""
    if np.isfinite(array).all():
        return ""
    first = np.argwhere(~np.isfinite(array))[0]
    return f"{array[tuple(first)]} at index {first.tolist()}"


def _image_converter(shape: tuple[int, ...], promised: np.dtype, high: int | tuple[int, ...]) -> _Convert:
    def convert_bytes(value: Any) -> np.ndarray | str:
        # Strict: a cast from any other dtype can wrap around without a word.
        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype != np.uint8:
            return describe(value)
        return value

    def convert(value: Any) -> np.ndarray | str:
        if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind not in "biu":
            return describe(value)
        return _outside(value, high) or value.astype(np.uint8, copy=False)

    return convert_bytes if promised == np.uint8 and high == 255 else convert


def _outside(image: np.ndarray, high: int | tuple[int, ...]) -> str:
    """The first number of an image that is not in 0..high, and its index; "" where all are."""
    if image.max() <= np.min(high) and (image.dtype.kind in "bu" or image.min() >= 0):  # some microseconds
        return ""
    wrong = np.argwhere((image > np.array(high)) | (image < 0))
    if not len(wrong):
        return ""
    return f"{image[tuple(wrong[0])]} at index {wrong[0].tolist()}"


def _discrete_converter(start: int, classes: int) -> _Convert:
    def convert(value: Any) -> np.ndarray | str:
        array = np.asarray(value)
        if array.shape != () or array.dtype.kind not in "iu":
            return describe(value)
        index = int(array) - start
        if not 0 <= index < classes:
            return describe(value)
        return np.asarray(index, np.int32)

    return convert


def describe(value: Any) -> str:
    """A value in a few words, for errors."""
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of {value.dtype} {list(value.shape)}"
    if isinstance(value, dict):
        return f"a dict with keys {sorted(map(str, value))}"
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:77] + '...'}"
