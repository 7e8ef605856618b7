"""Configurations from presets and files, checked: bad values end in one line that names them. Imports no JAX."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from dreamer_jax.core.algorithm import WIDTHS
from dreamer_jax.core.config import DEFAULT_PRESET, Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.extensions import DOORS, import_extensions
from dreamer_jax.core.files import write_text
from dreamer_jax.core.options import RENAMED, check_option, field_names, option_hint
from dreamer_jax.core.paths import absolute, paths_from, start_folder
from dreamer_jax.core.section import AnyOptions, Names
from dreamer_jax.core.text import brief, did_you_mean, shown

_PACKAGED = Path(__file__).resolve().parents[1] / "configs"  # in an installed wheel
CONFIG_FOLDER = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).resolve().parents[2] / "configs"

Preset = str | Path | Mapping[str, Any] | Config


def preset_names() -> list[str]:
    """Names of the presets that come with the project."""
    return sorted(path.stem for path in CONFIG_FOLDER.glob("*.yaml"))


def load_config(preset: Preset = DEFAULT_PRESET, overrides: Mapping[str, Any] | None = None) -> Config:
    """Builds a configuration from a preset and changes of it, and imports the modules that it names.

        load_config("cartpole", {"env.task": "gym:Acrobot-v1", "train": {"frames": 5_000}})
        load_config("my_presets/maze.yaml")
        load_config({"base": "catch", "model": {"representation": "contrastive"}})
        load_config(config, {"seed": 3})

    Args:
      preset: the name of one that comes with the project; a YAML file's path, which ends in .yaml or .yml; its content as a
        mapping; or a configuration. A file and a mapping may name the preset that they change: `base: cartpole`, or a path
        relative to the file. Without a base they change the defaults.
      overrides: values by dotted names, in nested mappings, or both. Imported modules are added to those of the preset.

    Raises:
      ConfigError: unknown preset or field, wrong type, value out of range, a module that cannot be imported, or a name that no
        module has registered.
    """
    folder = start_folder()
    values = _preset_values(preset)
    source = f"preset {values['preset']}"
    changes = flatten(overrides or {})
    more = changes.pop("imports", ())
    values["imports"] = _imports({"imports": [*_imports(values, source), *_imports({"imports": more}, "--import")]}, source)
    import_extensions(values["imports"])
    parse_config(values, source)  # before the changes: they need its sections to be mappings
    for name in changes:
        check_option(name)
    _change(values, changes)
    config = parse_config(values, f"{source}, changed" if changes else source)
    check_chosen(config)
    if start_folder() != folder:  # one of the modules has changed it
        with paths_from(folder):
            return with_absolute_paths(config)
    return config


def with_absolute_paths(config: Config) -> Config:
    """The configuration with `absolute` paths: `runs` and `train.init_from`."""
    train = config.train
    if train.init_from is not None:
        train = train.model_copy(update={"init_from": str(absolute(train.init_from))})
    return config.model_copy(update={"runs": str(absolute(config.runs)), "train": train})


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of nested mappings, whose own names may be dotted."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def check_chosen(config: Config) -> None:
    """Checks that all extensions that a configuration names are registered, and that none has options without being chosen.

    Raises:
      ConfigError: a name that is not registered, or options that nothing uses.
    """
    choices = {
        "representation": [config.model.representation],
        "loss": config.loss.terms,
        "bonus": config.behavior.bonuses,
        "observation": config.env.kinds,
        "callback": config.train.callbacks,
    }
    for door, names in choices.items():
        for name in names:
            DOORS[door].check(name)
            if list(names).count(name) > 1:
                raise ConfigError(f"{DOORS[door].option} names {name!r} twice")
    for name in config.extensions:
        if name not in config.chosen():
            door = next((door for door in choices if name in DOORS[door].outside_names()), None)
            fix = f"choose it with --{DOORS[door].option} {name}" if door else "import the module that registers it"
            raise ConfigError(f"extensions.{name} has options, but nothing uses {name!r}; {fix}, or leave them out")
    if config.env.options.model_dump() and type(config.env.options) is AnyOptions:
        family = config.env.task.partition(":")[0]
        raise ConfigError(f"env.options is for imported families of environments; {shown(family)} has none, leave it out")


def _preset_values(preset: Preset, within: Path | None = None, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The nested values of a preset over those of its base, with its name; `within` is the folder that paths start from."""
    if isinstance(preset, Config):
        return preset.model_dump(by_alias=True)
    if isinstance(preset, Mapping):
        own, name, folder = dict(preset), "custom", within
    elif isinstance(preset, str) and preset in preset_names():
        return {**read_yaml(CONFIG_FOLDER / f"{preset}.yaml"), "preset": preset}
    else:
        path = absolute(preset, within)
        if path.suffix not in (".yaml", ".yml"):
            near = did_you_mean(str(preset), preset_names()) or "."
            raise ConfigError(
                f"unknown preset {str(preset)!r}{near} Presets: {', '.join(preset_names())}, or a .yaml file's path"
            )
        if path.resolve() in seen:
            raise ConfigError(f"{path}: its bases lead back to it; a preset cannot be its own base")
        own, name, folder, seen = read_yaml(path), path.stem, path.parent, (*seen, path.resolve())
    base = own.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"preset {name}: base={shown(base)}; the name of a preset or a .yaml file's path was expected")
    values = _preset_values(base, folder, seen) if base else {}
    imports = [*_imports(values, f"preset {base}"), *_imports(own, f"preset {name}")]
    _change(values, flatten(own))
    return values | {"imports": imports, "preset": own.get("preset", name)}


def _change(values: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Puts values by dotted names into nested mappings."""
    if "model.size" in changes and isinstance(values.get("model"), dict):
        # A size asked for by name replaces the preset's widths; widths asked for beside it still count.
        values["model"] = {name: width for name, width in values["model"].items() if name not in WIDTHS}
    for name, value in changes.items():
        section = values
        *parents, leaf = name.split(".")
        for parent in parents:
            if not isinstance(section.get(parent), dict):
                section[parent] = {}
            section = section[parent]
        section[leaf] = value


def _imports(values: Mapping[str, Any], source: str) -> list[str]:
    """The modules that values import, each once."""
    try:
        names = TypeAdapter(Names).validate_python(values.get("imports") or ())
    except ValidationError:
        raise ConfigError(f"{source}: imports={shown(values['imports'])}; a list of modules was expected") from None
    return list(dict.fromkeys(names))


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
