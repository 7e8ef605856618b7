"""Lines of Python for errors, which a user can paste behind the line that makes `env`. Imports no gymnasium."""

from collections.abc import Sequence
from typing import Any


def transform_line(path: Sequence[Any], convert: str, space: str) -> str:
    """The line that wraps `env` so that one of its observations is converted.

        transform_line(["camera"], "{x}[..., :3]", "gymnasium.spaces.Box(0, 255, (64, 64, 3), numpy.uint8)")

    Args:
      path: the keys that lead to the observation; none where it is no dict.
      convert: the expression for what the observation becomes. {x} stands for the observation, {own} for its present space.
      space: the expression for its new space; {own} as there.
    """
    new = convert.format(x=_indexed("x", path), own=_indexed("own", path))
    new_space = space.format(own=_indexed("env.observation_space", path))
    for depth in reversed(range(len(path))):
        key, above = path[depth], path[:depth]
        new = f"{{**{_indexed('x', above)}, {key!r}: {new}}}"
        new_space = f"gymnasium.spaces.Dict({{**{_indexed('env.observation_space', above)}, {key!r}: {new_space}}})"
    # As a default argument: the name `env` means the wrapper by the time that the function is called.
    arguments = "x, own=env.observation_space" if "{own}" in convert else "x"
    return f"env = gymnasium.wrappers.TransformObservation(env, lambda {arguments}: {new}, {new_space})"


def box(low: Any, high: Any, shape: Sequence[int], dtype: Any) -> str:
    """The expression for a Box with the same bounds everywhere."""
    return f"gymnasium.spaces.Box({low}, {high}, {tuple(map(int, shape))}, numpy.{dtype})"


def _indexed(name: str, path: Sequence[Any]) -> str:
    return name + "".join(f"[{key!r}]" for key in path)
