"""Configurations from presets and files, checked: bad values end in one line that names them. Imports no JAX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from dreamer_jax.core.algorithm import WIDTHS
from dreamer_jax.core.config import DEFAULT_PRESET, Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.files import write_text
from dreamer_jax.core.options import RENAMED, check_option, field_names, option_hint
from dreamer_jax.core.text import brief, did_you_mean, shown

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"


def preset_names() -> list[str]:
    """Names of the presets in `configs/`."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def load_config(preset: str = DEFAULT_PRESET, overrides: Mapping[str, Any] | None = None) -> Config:
    """Builds the configuration of a preset with dotted overrides such as {"env.task": "gym:Acrobot-v1"}.

    Raises:
      ConfigError: unknown preset or field, wrong type, value out of range.
    """
    if preset not in preset_names():
        raise ConfigError(
            f"unknown preset {preset!r}{did_you_mean(preset, preset_names()) or '.'} Presets: {', '.join(preset_names())}"
        )
    values = read_yaml(CONFIG_FOLDER / f"{preset}.yaml")
    values["preset"] = preset
    parse_config(values, source=f"preset {preset}")  # before the overrides: they need its sections to be mappings
    if "model.size" in (overrides or {}):
        # A size asked for by name replaces the preset's widths; widths asked for beside it still count.
        values["model"] = {name: width for name, width in values.get("model", {}).items() if name not in WIDTHS}
    for name, value in (overrides or {}).items():
        check_option(name)
        section = values
        *parents, leaf = name.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    return parse_config(values, source=f"preset {preset}")


def parse_config(values: Mapping[str, Any], source: str) -> Config:
    """Validates nested values; `source` names where they came from in the error.

    Raises:
      ConfigError: one line that names the field, the value, what was expected and the fix.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_describe(error)}") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML without aliases: a few lines of them can stand for gigabytes, or contain themselves."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem=f"write out *{event.anchor}: aliases are not read", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping without running any code in it."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except Exception as error:  # what PyYAML raises is open-ended: "!!bool x" a KeyError, "!!int" of nothing an IndexError
        raise ConfigError(f"{path} cannot be read as YAML: {brief(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds {type(values).__name__}; a mapping of fields to values was expected")
    return values


def read_config(path: Path) -> Config:
    """Reads a resolved configuration that `write_yaml` wrote, also one from before options were renamed.

    Raises:
      ConfigError: it cannot be read, or a value is wrong.
    """
    return parse_config(with_new_names(read_yaml(path)), source=str(path))


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of a configuration with the options that have been renamed in their new places."""
    renamed: dict[str, Any] = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    for old, new in RENAMED.items():
        (section, name), (new_section, new_name) = old.split("."), new.split(".")
        if isinstance(renamed.get(section), dict) and name in renamed[section]:
            renamed.setdefault(new_section, {}).setdefault(new_name, renamed[section].pop(name))
    return renamed


def write_yaml(config: Config, path: Path) -> None:
    """Writes the resolved configuration."""
    write_text(path, yaml.safe_dump(config.model_dump(by_alias=True), sort_keys=False))


def _describe(error: ValidationError) -> str:
    """One line for the first thing that is wrong."""
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if problem["type"] == "extra_forbidden":
        return f"unknown field {shown(name)}{option_hint(name)}{more}"
    message = problem["msg"].removeprefix("Value error, ")
    if not name or problem["type"] == "value_error":
        return f"{message}{more}"
    names = dict(field_names())
    unit = f" ({names[name].description})" if name in names else ""
    message = message[0].lower() + message[1:]
    return f"{name}={shown(problem['input'])}: {message}{unit}{more}"
