"""Doors: how a representation, a loss, an environment family or a callback comes into the project from outside. Imports no JAX.

A module of the user's derives a class from one of the bases below `Extension`, and registers it under a name:

    import dreamer_jax

    @dreamer_jax.register("smooth")
    class Smooth(dreamer_jax.LossTerm):
        ...

A run that imports the module (`--import`, or `imports:` in a preset) can then choose the name. What the project has built in
comes through the same doors; its modules are imported when one of their names is first asked for.

The registries here are the one state that this project keeps in modules.
"""

import importlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from dreamer_jax.core.errors import RAISED_OUTSIDE, ConfigError
from dreamer_jax.core.section import Section
from dreamer_jax.core.spaces import ObsSpec
from dreamer_jax.core.text import did_you_mean, nearest, one_line, shown

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Extension:
    """The base of everything that comes through a door.

    Args:
      options: an object of the class's `Options`.

    Attributes:
      door: what kind of extension this is; set by the base class that an extension derives from.
      Options: its own section of the configuration: `extensions.NAME`, or `env.options` for an environment family.
      name: the name that it is registered under.
    """

    door: ClassVar[str]
    Options: ClassVar[type[Section]] = Section
    name: ClassVar[str]

    def __init__(self, options: Any) -> None:
        self.options = options

    def __repr__(self) -> str:
        return f"{type(self).__module__}.{type(self).__qualname__}({self.options!r})"


class Registry:
    """The extensions of one door, by name.

    Args:
      what: words for one of them, for messages.
      option: that chooses among the names.
      built_in: {name: module of this project that registers it}; an attribute, too.
      reserved: names that mean something else, such as those of weights.
    """

    def __init__(self, what: str, option: str, built_in: dict[str, str], reserved: Iterable[str] = ()) -> None:
        self.what, self.option = what, option
        self.built_in, self._reserved = built_in, frozenset(reserved)
        self._classes: dict[str, type[Extension]] = {}

    def add(self, name: str, extension: type[Extension]) -> None:
        """Registers a class; a class of the same module and name takes the place of an earlier one."""
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{self.what} cannot be registered as {shown(name)}; use lower-case letters, digits and _")
        if name in self._reserved or self.built_in.get(name, extension.__module__) != extension.__module__:
            raise ConfigError(f"{extension.__module__}: the name {name!r} is built in; choose another")
        known = self._classes.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (extension.__module__, extension.__qualname__):
            raise ConfigError(
                f"{extension.__module__}: {name!r} is already the name of {self.what} in {known.__module__}; choose another"
            )
        extension.name = name
        self._classes[name] = extension

    def get(self, name: str) -> type[Any]:
        """The class that is registered under a name; the module of a built-in one is imported. Raises as `check`."""
        self.check(name)
        if name not in self._classes:
            importlib.import_module(self.built_in[name])
        return self._classes[name]

    def check(self, name: str) -> None:
        """Checks that there is such a name, without importing anything.

        Raises:
          ConfigError: there is none; with the nearest name, and how to import one.
        """
        if name in self.names():
            return
        other = next((door for door in DOORS.values() if name in door.outside_names()), None)
        if other is not None:
            raise ConfigError(f"{self.option}={shown(name)}: {name!r} is {other.what}; choose it with --{other.option} {name}")
        raise ConfigError(
            f"{self.option}={shown(name)} is not the name of {self.what}{did_you_mean(name, self.names()) or '.'} "
            f"There are: {', '.join(self.names()) or 'none'}. --import MODULE, or imports: [MODULE] in a preset, brings those "
            "that a module registers"
        )

    def from_outside(self, name: str) -> type[Extension] | None:
        """The class that somebody else's module has registered; None for built-in and unknown names."""
        return None if name in self.built_in else self._classes.get(name)

    def names(self) -> list[str]:
        """All names that can be chosen."""
        return sorted({*self.built_in, *self._classes})

    def outside_names(self) -> list[str]:
        """The names that modules from outside have registered."""
        return sorted(self._classes.keys() - self.built_in.keys())


_PARTS = "dreamer_jax.agent.representations"
_FAMILIES = "dreamer_jax.envs.families"
_LOSSES = ("decoder", "reward", "continue", "dyn", "rep", "policy", "value", "replay_value", "encoder", "rssm")

DOORS = {
    "representation": Registry(
        "a representation",
        "model.representation",
        {name: f"{_PARTS}.{name}" for name in ("reconstruction", "contrastive", "redundancy", "prototypes", "reward_only")},
        _LOSSES,
    ),
    "loss": Registry("a loss term", "loss.terms", {}, _LOSSES),
    "bonus": Registry("an exploration bonus", "behavior.bonuses", {}, _LOSSES),
    "observation": Registry("a kind of observation", "env.kinds", {}, ("vector", "discrete", "image", "mlp")),
    "family": Registry(
        "a family of environments",
        "env.task",
        {
            "gym": f"{_FAMILIES}.registered",
            "dmc": f"{_FAMILIES}.dmc",
            "atari": f"{_FAMILIES}.atari",
            "import": f"{_FAMILIES}.imported",
        },
    ),
    "callback": Registry(
        "a callback",
        "train.callbacks",
        {name: f"dreamer_jax.training.callbacks.{name}" for name in ("terminal", "tensorboard", "wandb", "dreams")},
    ),
}
_imported: list[str] = []

E = TypeVar("E", bound=Extension)


def register(name: str) -> Callable[[type[E]], type[E]]:
    """Registers the class below it under a name: `@dreamer_jax.register("smooth")`.

    The base class decides what it is: `Representation`, `LossTerm`, `ExplorationBonus`, `ObservationNetwork`, `Family` or
    `Callback`.

    Raises:
      ConfigError: the name is taken, or no name; or the class has none of these bases.
    """

    if not isinstance(name, str):
        raise ConfigError('the name is missing: write @dreamer_jax.register("name") above the class')

    def add(extension: type[E]) -> type[E]:
        door = getattr(extension, "door", None)
        if door not in DOORS:
            raise ConfigError(
                f"{extension.__module__}.{extension.__qualname__} cannot be registered: it has to be derived from one of "
                "Representation, LossTerm, ExplorationBonus, ObservationNetwork, Family, Callback"
            )
        if problem := _problem(extension):
            raise ConfigError(f"{extension.__module__}.{extension.__qualname__} cannot be registered: {problem}")
        elsewhere = [other for other in DOORS if other not in (door, "family") and name in DOORS[other].outside_names()]
        if door != "family" and elsewhere:  # they would share the section extensions.NAME
            raise ConfigError(
                f"{extension.__module__}: {name!r} is already the name of {DOORS[elsewhere[0]].what}; choose another name"
            )
        DOORS[door].add(name, extension)
        return extension

    return add


def _problem(extension: type[Extension]) -> str | None:
    """Why a class does not fit its door; None where it does."""
    options = extension.Options
    if not (isinstance(options, type) and issubclass(options, Section)):
        return f"its Options are {shown(options)}; a class derived from dreamer_jax.Section was expected"
    base = next(base for base in extension.__mro__ if "door" in vars(base))
    built_in = extension.__module__.startswith("dreamer_jax.")  # these have their weights elsewhere
    if not built_in and (missing := sorted(base.Options.model_fields.keys() - options.model_fields.keys())):
        return f"its Options have no {missing[0]!r}; derive them from dreamer_jax.{base.Options.__name__}"
    for name, field in options.model_fields.items():
        if field.is_required():
            return f"its option {name!r} has no default; give one with Field(default=...)"
    hooks = [name for name in dir(base) if not name.startswith("_")]
    for name in vars(extension):
        close = [] if name in hooks or name.startswith("_") else nearest(name, hooks, 1, 0.8)
        if close and close[0] not in vars(extension):
            return f"it has {name!r}, which nothing calls; did you mean {close[0]!r}? Otherwise name it differently"
    return None


def import_extensions(modules: Sequence[str]) -> None:
    """Imports modules that register extensions; those that are imported already stay as they are.

    Raises:
      ConfigError: there is no such module, or it raises an error.
    """
    for name in modules:
        if name in _imported:
            continue
        try:
            importlib.import_module(name)
        except ConfigError as error:
            raise ConfigError(f"module {name}: {error}") from None
        except RAISED_OUTSIDE as error:
            if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
                raise ConfigError(f"there is no module {error.name!r} to import.{_where(name)}") from None
            raise ConfigError(f"importing {name} raised {one_line(error)}") from error
        _imported.append(name)


def _where(name: str) -> str:
    """What to do about a module that is not found."""
    if name.endswith(".py") or "/" in name:
        return f" Give its name, not its file: {name.removesuffix('.py').strip('./').replace('/', '.')}"
    return " Go to the folder that holds it, install its package, or set PYTHONPATH to the folder"


def imported_extensions() -> tuple[str, ...]:
    """The modules that `import_extensions` has imported in this process: what a process of an environment needs as well."""
    return tuple(_imported)


def options_classes() -> dict[str, type[Section]]:
    """{name: Options} of what modules from outside have registered, but for families: the sections below `extensions`."""
    return {name: DOORS[door].get(name).Options for door in DOORS if door != "family" for name in DOORS[door].outside_names()}


class ObservationNetwork(Extension):
    """A kind of observation with networks of its own, chosen by `env.kinds`; asked before the built-in kinds, in that order.

    What environments need of it comes first, and is called in their processes: import JAX in the methods after it.
    """

    door = "observation"

    @classmethod
    def spec(cls, space: Any) -> ObsSpec | None:
        """What the agent sees of a gymnasium space, an `ObsSpec` of kind `cls.name`; None: the space is another kind's."""
        raise NotImplementedError

    @classmethod
    def convert(cls, value: Any, spec: ObsSpec) -> Any:
        """An observation as an array of `spec.shape` and `spec.dtype`; ValueError with the reason where it is none."""
        raise NotImplementedError

    def encoder(self, spec: ObsSpec, style: Any) -> Any:
        """A flax module that turns observations [.., *shape] into tokens f[.., E] of any number."""
        raise NotImplementedError

    def decoder(self, spec: ObsSpec, style: Any) -> Any:
        """A flax module that turns (deter [.., D], stoch of the same state) into what `loss` takes; None: it is not decoded."""
        return None

    def loss(self, spec: ObsSpec, prediction: Any, target: Any) -> Any:
        """The loss f32[B, T] of a decoder's prediction for observations [B, T, *shape]."""
        raise NotImplementedError
