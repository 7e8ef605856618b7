"""The names of all options. Imports no JAX."""

from collections.abc import Collection, Iterator
from typing import Any

from pydantic import BaseModel

from dreamer_jax.core.config import Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.extensions import DOORS, options_classes
from dreamer_jax.core.text import did_you_mean

RENAMED = {
    "train.eval_every": "eval.every",
    "train.eval_episodes": "eval.episodes",
    "train.final_episodes": "eval.final_episodes",
    "train.video": "eval.video",
}


def sections(section: type[BaseModel] = Config, prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Yields (prefix of dotted names, class) of the configuration and of each section in it.

    Sections of imported extensions are included. Those of several families of environments share a prefix.
    """
    yield prefix, section
    for name, field in section.model_fields.items():
        dotted = prefix + (field.alias or name)
        if dotted == "extensions":
            for extension, options in options_classes().items():
                yield from sections(options, f"extensions.{extension}.")
        elif dotted == "env.options":
            for family in DOORS["family"].outside_names():
                yield from sections(DOORS["family"].get(family).Options, "env.options.")
        elif _is_section(field):
            yield from sections(field.annotation, dotted + ".")  # pyright: ignore[reportArgumentType]


def field_names() -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, pydantic field) of every leaf of the configuration, options of imported extensions included."""
    for prefix, section in sections():
        for name, field in section.model_fields.items():
            dotted = prefix + (field.alias or name)
            if dotted != "extensions" and not _is_section(field):
                yield dotted, field


def check_option(name: str) -> None:
    """Raises ConfigError, with the nearest name, where there is no option of this name."""
    if name not in dict(field_names()):
        raise ConfigError(f"unknown option --{name}{option_hint(name)} `--help` lists all options")


def option_hint(name: str, known: Collection[str] | None = None) -> str:
    """ "; did you mean 'env.task'?" for the option that is meant: by its old name, its last part ("task") or its looks.

    `known` holds the names that can be meant; without it they are those of the configuration.
    """
    first, _, rest = name.partition(".")
    own = options_classes()
    if first in own:
        return f"; did you mean 'extensions.{name}'?"
    if first == "extensions" and (extension := rest.partition(".")[0]) not in own:
        return f": no imported module registers {extension!r}; --import MODULE, or imports: [MODULE] in a preset, brings one."
    names = [field for field, _ in field_names()] if known is None else known
    meant = RENAMED.get(name) or next((full for full in names if full.rpartition(".")[2] == name), None)
    return f"; did you mean {meant!r}?" if meant in names else did_you_mean(name, names) or "."


def _is_section(field: Any) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
