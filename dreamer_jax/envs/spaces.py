"""What an environment shows and takes, in its own form and in the agent's. Kept as JSON, a policy needs no simulator."""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.core.errors import EnvError
from dreamer_jax.core.spaces import ActionSpec, ObsSpec, ObsSpecs
from dreamer_jax.core.text import brief, shown
from dreamer_jax.envs.actions import ActionConversion, action_conversion
from dreamer_jax.envs.observations import ObservationConversion

_LARGEST = 2**26  # numbers of a Box: a file that says more is damaged
_INFINITE = {"inf": math.inf, "-inf": -math.inf}  # which JSON has no numbers for


@dataclass(frozen=True)
class EnvSpaces:
    """What an environment shows and takes.

    Attributes:
      observation: converts its own observations to {name: array}.
      action: converts f32[A] to its own actions.
    """

    observation: ObservationConversion
    action: ActionConversion

    @property
    def specs(self) -> tuple[ObsSpecs, ActionSpec]:
        """What the agent sees and does."""
        return self.observation.specs, self.action.spec

    def as_json(self) -> dict[str, Any] | None:
        """The environment's own spaces and the agent's specs; None where JSON cannot hold them, such as tuples as keys."""
        try:
            return {
                "observation_space": _space_as_json(self.observation.space),
                "action_space": _space_as_json(self.action.space),
                "obs_specs": {
                    name: asdict(spec) | {"shape": list(spec.shape)} for name, spec in self.observation.specs.items()
                },
                "action_spec": asdict(self.action.spec),
            }
        except _NoJsonError:
            return None

    @classmethod
    def from_json(cls, values: dict[str, Any], name: str, kinds: Sequence[str] = ()) -> "EnvSpaces":
        """What `as_json` gave.

        Args:
          name: the task, for messages.
          kinds: the imported kinds of observation that may occur.

        Raises:
          ValueError: the values are damaged; one line says what is wrong with them.
          ConfigError: a kind of `kinds` is not imported.
        """
        specs = dict(_read_specs(values.get("obs_specs")))  # those without `high` are of older versions
        try:
            observation_space, action_space = map(_space_from_json, (values["observation_space"], values["action_space"]))
        except (KeyError, TypeError, ValueError, OverflowError, AssertionError, RecursionError) as error:
            raise ValueError(f"a space cannot be made: {type(error).__name__}: {brief(error)}") from None
        imported = {key: spec for key, spec in specs.items() if spec.kind in kinds}
        found = cls(ObservationConversion(observation_space, name, known=imported), action_conversion(action_space, name))
        for key, spec in found.observation.specs.items():
            if "high" not in values["obs_specs"].get(key, {}):
                found.observation.specs[key] = replace(spec, high=255)
        if found.observation.specs != specs or asdict(found.action.spec) != values.get("action_spec"):
            raise ValueError("obs_specs and action_spec are not those of the spaces")
        return found


def spaces_of(env: gymnasium.Env) -> EnvSpaces:
    """The spaces of an environment that `make_env` has made."""
    return EnvSpaces(env.get_wrapper_attr("observation_conversion"), env.get_wrapper_attr("action_conversion"))


class _NoJsonError(Exception):
    """A space that JSON cannot hold."""


class _NamedSpace(spaces.Space):
    """In the place of a space that only an imported kind of observation knows: its text, for messages."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _space_as_json(space: spaces.Space) -> dict[str, Any]:
    if isinstance(space, spaces.Dict):
        if not all(type(key) in (str, int) for key in space.spaces):
            raise _NoJsonError
        return {"type": "Dict", "spaces": [[key, _space_as_json(inner)] for key, inner in space.items()]}  # in this order
    if isinstance(space, spaces.Discrete):
        return {"type": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "n": space.n if isinstance(space.n, int) else list(map(int, space.n))}
    if isinstance(space, spaces.Box):
        if space.dtype.itemsize > 8 or space.low.size > _LARGEST:
            raise _NoJsonError
        bounds = {"low": _numbers(space.low), "high": _numbers(space.high)}
        return {"type": "Box", "shape": list(space.shape), "dtype": space.dtype.name, **bounds}
    return {"type": "other", "text": str(space)}


def _space_from_json(values: dict[str, Any]) -> spaces.Space:
    kind = values["type"]
    if kind == "Dict":
        keys = [key for key, _ in values["spaces"]]
        if not all(type(key) in (str, int) for key in keys) or len(set(keys)) < len(keys):
            raise ValueError(f"the keys of a Dict are {shown(keys)}")
        return spaces.Dict(OrderedDict((key, _space_from_json(inner)) for key, inner in values["spaces"]))
    if kind == "Discrete":
        return spaces.Discrete(_whole(values["n"]), start=_whole(values["start"]))
    if kind == "MultiBinary":
        n = values["n"]
        return spaces.MultiBinary(_shape(n) if isinstance(n, list) else _whole(n))
    if kind == "Box":
        shape, dtype = _shape(values["shape"]), np.dtype(str(values["dtype"]))
        if math.prod(shape) > _LARGEST or dtype.kind not in "biuf":
            raise ValueError(f"a Box has the shape {shown(shape)} and the dtype {dtype}")
        low, high = (_array(values[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "other" and isinstance(values["text"], str):
        return _NamedSpace(values["text"])
    raise ValueError(f"{shown(kind)} is no space")


def _numbers(bounds: np.ndarray) -> Any:
    """A bound as one number where it is the same everywhere, else as a flat list."""
    flat = bounds.ravel()[:1] if (bounds == bounds.flat[0]).all() else bounds.ravel()
    numbers = [text if (text := str(number)) in _INFINITE else number for number in flat.tolist()]
    return numbers[0] if len(numbers) == 1 else numbers


def _array(values: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The array that `_numbers` was made of."""
    listed = values if isinstance(values, list) else [values]
    numbers = [_INFINITE[number] if isinstance(number, str) else number for number in listed]
    allowed = (int, float) if dtype.kind == "f" else (int,)
    if not all(isinstance(number, allowed) and not math.isnan(number) for number in numbers):
        raise ValueError(f"{shown(values)} are no bounds of {dtype}")
    array = np.array(numbers, dtype)
    return array.reshape(shape) if isinstance(values, list) else np.full(shape, array[0])


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"{shown(value)} is no whole number")
    return value


def _shape(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or min(map(_whole, values), default=0) < 0:
        raise ValueError(f"{shown(values)} is no shape")
    return tuple(values)


def _read_specs(values: Any) -> Iterator[tuple[str, ObsSpec]]:
    """The specs by name, as `as_json` wrote them. Older versions wrote no `high`: all their images were divided by 255."""
    fields = {"kind": str, "shape": list, "classes": int, "storage": str, "high": int}
    if not isinstance(values, dict):
        raise ValueError(f"obs_specs is {shown(values)}")
    for name, value in values.items():
        spec: dict[str, Any] = {"high": 255, **value} if isinstance(value, dict) else {}
        types = {key: type(value) for key, value in spec.items()}
        if types not in (fields, fields | {"high": list}):
            raise ValueError(f"obs_specs of {shown(name)} is {shown(value)}")
        try:
            high = tuple(map(_whole, spec["high"])) if isinstance(spec["high"], list) else spec["high"]
            yield name, ObsSpec(spec["kind"], _shape(spec["shape"]), spec["classes"], spec["storage"], high)
        except EnvError as error:
            raise ValueError(brief(error)) from None
