"""What to do about spaces that the agent cannot use, in lines that can be pasted."""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.core.advice import box, transform_line
from dreamer_jax.core.errors import EnvError

_UNBOUNDED = 1e30  # bounds beyond this stand for "no bound", such as the largest float32
_MOST_CHOICES = 64  # that a MultiDiscrete is flattened to; beyond, numbers are easier to learn
_LISTED = 16  # numbers that an error lists
_OWN_CLASS = (
    "write a gymnasium.ObservationWrapper whose observation() returns arrays of a fixed shape, or register a kind of "
    "observation for it (dreamer_jax.ObservationNetwork, --env.kinds)"
)


def check_spaces(env: gymnasium.Env, name: str) -> None:
    """Checks that an environment has spaces, and that they are gymnasium's.

    Raises:
      EnvError: they are missing, of the package gym, or something else.
    """
    for attribute in ("observation_space", "action_space"):
        try:
            space = getattr(env, attribute)
        except AttributeError:
            space = None
        if isinstance(space, spaces.Space):
            continue
        if space is None:
            raise EnvError(
                f"{name}: the environment has no {attribute}. Set self.{attribute} in its __init__, such as "
                f"{'gymnasium.spaces.Discrete(2)' if attribute == 'action_space' else box(-1.0, 1.0, (3,), 'float32')}"
            )
        old = is_of_old_gym(space)
        problem = f"{space_text(space)} of the old package gym" if old else f"{type(space).__name__}, which is no space"
        fix = f"Write `from gymnasium import spaces` in its module, or {CONVERT}" if old else "Take one of gymnasium.spaces"
        raise EnvError(f"{name}: {attribute} is {problem}; a space of gymnasium was expected. {fix}")


CONVERT = (
    "convert the environment: pip install 'shimmy[gym-v26]', and env = shimmy.GymV26CompatibilityV0(env=env) "
    "(GymV21CompatibilityV0 where reset returns the observation alone)"
)


def is_of_old_gym(value: Any) -> bool:
    """Whether a space or an environment is one of the package gym, which came before gymnasium."""
    return any(cls.__module__.partition(".")[0] == "gym" for cls in type(value).__mro__)


def space_text(space: Any) -> str:
    """A space on one line, for errors; bounds that differ within a Box are printed as arrays."""
    text = " ".join(str(space).split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an array of rank 3 is rather [channels, height, width] than an image with its channels last.

    Of the latter, few have as many channels as columns, and more channels than rows.
    """
    sides = min(shape[1:])
    return sides >= 16 and shape[0] < sides and (shape[0] < 16 or shape[1] == shape[2])


def observation_advice(space: spaces.Space, path: Sequence[Any], whole: spaces.Space) -> str:
    """What to do about an observation that is of no kind that the agent knows.

    Args:
      path: the keys that lead to it within `whole`, the environment's observation space.
    """
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        return _array_advice(space, path) if math.prod(space.shape) else _drop(path, whole, "It holds no numbers")
    if isinstance(space, spaces.Text):  # flattened, a text would be a vector of the numbers of its letters
        return _drop(path, whole, f"For what a text means, {_OWN_CLASS}")
    if not isinstance(space, spaces.Tuple | spaces.MultiDiscrete) or not space.is_np_flattenable:
        return _drop(path, whole, f"Or {_OWN_CLASS}" if _others(path, whole) else _capital(_OWN_CLASS))
    if not path:
        return "Make it a vector: env = gymnasium.wrappers.FlattenObservation(env)"
    line = transform_line(path, "gymnasium.spaces.flatten({own}, {x})", "gymnasium.spaces.flatten_space({own})")
    return f"Make it a vector: {line}"


def _array_advice(space: spaces.Box | spaces.MultiBinary, path: Sequence[Any]) -> str:
    """How an array of more than two axes becomes an image or a vector."""
    shape = space.shape
    low, high = (space.low, space.high) if isinstance(space, spaces.Box) else (np.zeros(1), np.ones(1))
    bounded = bool((np.maximum(np.abs(low.astype(float)), np.abs(high.astype(float))) < _UNBOUNDED).all())
    wide = space.dtype.kind == "i" and bool((low.astype(float) < -(2**31)).any())
    frames = len(shape) == 4 and min(shape[1:3]) >= 16 and low.min() >= 0 and high.max() <= 255
    if frames and space.dtype.kind in "biu":
        new = (shape[1], shape[2], shape[0] * shape[3])
        line = transform_line(path, "numpy.concatenate(list({x}), -1)", box(0, int(high.max()), new, space.dtype))
        return f"Put the frames behind each other in the channels: {line}"
    if len(shape) != 3 or not bounded or wide:
        new = box(_number(low.min()), _number(high.max()), (math.prod(shape),), space.dtype)
        return f"Make it a vector: {transform_line(path, '{x}.ravel()', new)}"
    moved = channels_first(shape)
    x, own_low, own_high = "{x}", "{own}.low", "{own}.high"
    if moved:
        shape = (*shape[1:], shape[0])
        x, own_low, own_high = (f"numpy.moveaxis({part}, 0, -1)" for part in (x, own_low, own_high))
    if space.dtype.kind in "biu" and low.min() >= 0 and high.max() <= 255 and (2 * low.astype(int) <= high).all():
        if (low == low.flat[0]).all() and (high == high.flat[0]).all():
            new = box(int(low.flat[0]), int(high.flat[0]), shape, space.dtype.name.replace("bool", "bool_"))
        else:
            new = f"gymnasium.spaces.Box({own_low}, {own_high}, dtype=numpy.{space.dtype})"
        return f"Put the channels last: {transform_line(path, x, new)}"
    if (low == 0).all() and (high == 1).all():
        pixels = f"numpy.rint(255 * {x}).astype(numpy.uint8)"
    else:
        pixels = f"numpy.rint(255 * (({x} - {own_low}) / ({own_high} - {own_low}))).astype(numpy.uint8)"
    last = " with the channels last" if moved else ""
    return f"Make it an image of uint8{last}: {transform_line(path, pixels, box(0, 255, shape, 'uint8'))}"


def _number(bound: Any) -> str:
    """A bound as Python writes it."""
    if np.isinf(bound):
        return f"{'-' if bound < 0 else ''}numpy.inf"
    return repr(bound.item())


def _others(path: Sequence[Any], whole: spaces.Space) -> list[Any]:
    return [key for key in whole if key != path[0]] if len(path) == 1 and isinstance(whole, spaces.Dict) else []


def _drop(path: Sequence[Any], whole: spaces.Space, otherwise: str) -> str:
    """Leaving an observation out, where others remain."""
    others = _others(path, whole)
    if not others:
        return otherwise
    return f"Leave it out: env = gymnasium.wrappers.FilterObservation(env, {others!r}). {otherwise}"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def action_advice(space: spaces.Space) -> str:
    """What to do about an action space that is neither Discrete nor a bounded Box."""
    if isinstance(space, spaces.MultiBinary):
        return _choices_advice(np.full(space.shape, 2), np.zeros(space.shape, int), space.shape, space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return _choices_advice(space.nvec, np.asarray(space.start), space.shape, space.dtype)
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(float).ravel(), space.high.astype(float).ravel()
        known_low, known_high = np.abs(low) < _UNBOUNDED, np.abs(high) < _UNBOUNDED
        new_low = np.where(known_low, low, np.where(known_high, high - 1, -1))
        new_high = np.where(known_high, high, np.where(known_low, low + 1, 1))
        new = _box_of(new_low, new_high, space.shape, space.dtype)
        return f"Choose limits that it needs, in place of the infinite ones: {_action_line('x', new)}"
    return (
        "Write a gymnasium.ActionWrapper whose action_space is a Discrete or a bounded Box, and whose action() makes the "
        "environment's own action of it"
    )


def _choices_advice(counts: np.ndarray, start: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> str:
    """Several choices at once: one choice among all combinations, or a number each."""
    total = math.prod(counts.ravel().tolist())
    if total > _MOST_CHOICES:
        return f"Give each choice a number: {_action_line('x', _box_of(start, start + counts - 1, shape, dtype))}"
    every = f"numpy.array(numpy.unravel_index(x, {tuple(counts.ravel().tolist())}), numpy.{dtype})"
    if len(shape) != 1:
        every += f".reshape({tuple(shape)})"
    if start.any():
        every += f" + numpy.array({start.tolist()}, numpy.{dtype})"
    return f"Make one choice of all combinations: {_action_line(every, f'gymnasium.spaces.Discrete({total})')}"


def _action_line(convert: str, space: str) -> str:
    return f"env = gymnasium.wrappers.TransformAction(env, lambda x: {convert}, {space})"


def _box_of(low: np.ndarray, high: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> str:
    """The expression for a Box; with words in the place of bounds that are too many to list."""
    low, high = low.ravel(), high.ravel()
    if (low == low[0]).all() and (high == high[0]).all():
        return box(low[0].item(), high[0].item(), shape, dtype)
    if low.size > _LISTED:
        return f"gymnasium.spaces.Box(low, high, dtype=numpy.{dtype}) with arrays low and high of shape {list(shape)}"
    lowest, highest = (f"numpy.array({bound.reshape(shape).tolist()}, numpy.{dtype})" for bound in (low, high))
    return f"gymnasium.spaces.Box({lowest}, {highest}, dtype=numpy.{dtype})"
