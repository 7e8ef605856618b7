"""The command line of every command: its own options and, where it takes them, all options of a run."""

import argparse
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from dreamer_jax.core.config import DEFAULT_PRESET, Config
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.core.options import field_names, option_hint, sections
from dreamer_jax.core.paths import absolute
from dreamer_jax.core.presets import Preset, load_config, preset_names
from dreamer_jax.core.section import LARGEST
from dreamer_jax.core.text import did_you_mean
from dreamer_jax.runs.folder import open_run_with_imports

SHORT_NAMES = {"import": "imports", "init-from": "train.init_from", "init-parts": "train.init_parts"}
"""Options that are listed under a shorter name than the field that they set; both can be typed."""


class CommandParser(argparse.ArgumentParser):
    """The options of one command. Each mistake of the user's is a ConfigError of one line.

        parser = CommandParser("bench", __doc__)
        parser.add_run_options()
        parser.add_argument("--calls", type=whole_number(1), default=20, help="timed calls of each part [count]")
        options = parser.read(arguments)

    Args:
      command: the words behind `dreamer`.
      description: what `--help` begins with.
    """

    def __init__(self, command: str, description: str | None) -> None:
        self._own: dict[str, argparse.Action] = {}  # by the names that are typed
        self._takes_run = False
        self._default_preset: str | None = DEFAULT_PRESET
        self._decided: frozenset[str] = frozenset()
        layout = argparse.RawDescriptionHelpFormatter
        super().__init__(f"dreamer {command}", description=description, formatter_class=layout, allow_abbrev=False)

    def add_argument(self, *names: str, **settings: Any) -> argparse.Action:
        """Declares an option of the command's own, as argparse does; its help ends with the default, if it has one."""
        default = settings.get("default")
        if default not in (None, "", argparse.SUPPRESS) and not isinstance(default, bool):
            text = " ".join(map(str, default)) if isinstance(default, list) else str(default)
            settings["help"] = f"{settings['help']} (default: {text})"
        action = super().add_argument(*names, **settings)
        self._own |= {name.removeprefix("--"): action for name in action.option_strings}
        return action

    def add_run_options(self, default: str | None = DEFAULT_PRESET, decided: Collection[str] = ()) -> None:
        """Takes all options of a run as well.

        Args:
          default: the preset that they change when `--preset` is not given; None: it has to be given.
          decided: fields that the command decides by options of its own; `--help` leaves them out.
        """
        self._takes_run, self._default_preset, self._decided = True, default, frozenset(decided)

    def read(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Reads a command line. `--help` prints and exits.

        Returns:
          the command's own options by name, and `given`, the names of all options that were typed. With a run's options also
          `preset`, and `overrides`: {dotted name: text}, not validated yet, for `load_config(preset, overrides)`.

        Raises:
          ConfigError: an option that is unknown, repeated, or has no value or a wrong one; a preset or module that cannot be
            loaded.
        """
        base = self._load_extensions(arguments) if self._takes_run else None
        wanted = [word for word in arguments if word not in ("-h", "--help")]
        own, overrides, given = self._sort(wanted)
        preset = overrides.pop("preset", self._default_preset)
        if len(wanted) < len(arguments):
            if base is not None:
                self._list_fields(load_config(base, overrides))
            self.print_help()
            self.exit()
        options, unexpected = self.parse_known_args(own)
        if unexpected:
            raise ConfigError(f"unexpected argument {unexpected[0]!r}; options are written --field value")
        if self._takes_run and preset is None:
            raise ConfigError(f"--preset is needed: {', '.join(preset_names())}, or a .yaml file's path")
        options.given, options.preset, options.overrides = given, preset, overrides
        return options

    def error(self, message: str) -> NoReturn:
        """What argparse refuses is a ConfigError as well."""
        raise ConfigError(message.removeprefix("argument "))

    def _load_extensions(self, arguments: Sequence[str]) -> Preset:
        """Imports the modules that the command line names, its preset or the resumed run: their options are options, too.

        Returns:
          what the options change: the resumed run's configuration, or a preset.
        """
        values: dict[str, str] = {}
        for word, following in pairwise([*arguments, "--"]):
            typed, equals, value = word.partition("=")
            value = value if equals else following
            if typed.startswith("--") and not value.startswith("--"):
                values[SHORT_NAMES.get(typed[2:], typed[2:])] = value
        resumed = absolute(values.get("resume", ""))
        if "resume" in self._own and "resume" in values and (resumed / "config.yaml").is_file():
            return open_run_with_imports(resumed)
        preset = values.get("preset") or self._default_preset or DEFAULT_PRESET
        load_config(preset, {"imports": values.get("imports", "")})
        return preset

    def _sort(self, words: Sequence[str]) -> tuple[list[str], dict[str, str], set[str]]:
        """Checks the words -> those of the command's own options for argparse, {field: text}, the names that were given."""
        fields = dict(field_names()) if self._takes_run else {}
        own: list[str] = []
        overrides: dict[str, str] = {}
        given: set[str] = set()
        left = iter(words)
        for word in left:
            if not word.startswith("--"):
                own.append(word)
                continue
            typed, equals, value = word[2:].partition("=")
            action, name = self._own.get(typed), SHORT_NAMES.get(typed, typed)
            if action is None and name not in fields:
                known = [*self._own, *map(_spelled, fields)]
                raise ConfigError(f"unknown option --{typed}{option_hint(typed, known)} `--help` lists all options")
            name = action.dest if action else name
            if name in given:
                raise ConfigError(f"--{typed} is given twice")
            given.add(name)
            if action is not None and action.nargs == 0:
                if equals:
                    raise ConfigError(f"--{typed} takes no value; leave out ={value}")
                own.append(word)
                continue
            if not equals:
                value = next(left, "--")
                if value.startswith("--"):
                    raise ConfigError(f"--{typed} needs a value: {action.help if action else fields[name].description}")
            if action is None:
                overrides[name] = value
            elif action.nargs is None:
                own.append(f"--{typed}={value}")  # in one word: the value may begin with "-"
            else:
                own += [f"--{typed}", value]
        return own, overrides, given

    def _list_fields(self, config: Config) -> None:
        """Declares every field for `--help`: a group for each section, each field with its value in `config`."""
        # argparse would write out all of them in the first lines.
        self.usage = f"{self.format_usage().removeprefix('usage: ').strip()} [--FIELD VALUE ...]"
        values = config.model_dump(by_alias=True)
        listed = {*self._decided}
        for prefix, section in sections():
            title = prefix.rstrip(".") or f"options of the run, with the values of preset {config.preset}"
            group = self.add_argument_group(title, (section.__doc__ or "").partition("\n")[0] if prefix else None)
            for name, field in field_names():
                if name.rpartition(".")[0] == prefix.rstrip(".") and name not in listed:
                    listed.add(name)
                    about = _preset_help() if name == "preset" else f"{field.description or ''}".strip()
                    about = f"{about} (default: {_shown_value(values, name, field)})".replace("%", "%%")
                    group.add_argument(f"--{_spelled(name)}", metavar=_metavar(field.annotation), help=about)


def absolute_path(text: str) -> Path:
    """A `type` of add_argument: a path, absolute; see `absolute`."""
    try:
        return absolute(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole_number(least: int = 0, most: int = LARGEST) -> Callable[[str], int]:
    """A `type` of add_argument: whole numbers from `least` to `most`, also written as 1e6."""

    def read(text: str) -> int:
        try:
            number = Decimal(text)
            if least <= number <= most and number == int(number):
                return int(number)
        except ArithmeticError:  # it is no number
            pass
        limits = f"of at least {least}" if most == LARGEST else f"from {least} to {most}"
        raise argparse.ArgumentTypeError(f"{text!r} was given, a whole number {limits} was expected")

    return read


def choose(program: str, about: str, commands: Mapping[str, str], arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The command that a command line begins with, and the words after it. `--help`, or no word at all, lists them and exits.

    Args:
      program: the words before the command.
      about: what the list begins with.
      commands: {name: what it does}.

    Raises:
      ConfigError: there is no such command; with the nearest name.
    """
    name, *rest = arguments or ("--help",)
    if name in ("-h", "--help"):
        width = max(map(len, commands))
        lines = "\n".join(f"  {command:<{width}}  {summary}" for command, summary in commands.items())
        print(f"usage: {program} COMMAND ...", about, lines, f"`{program} COMMAND --help` lists its options.", sep="\n\n")
        sys.exit()
    if name not in commands:
        near = did_you_mean(name, commands) or "."
        raise ConfigError(f"unknown command {program} {name}{near} Commands: {', '.join(commands)}")
    return name, rest


def _spelled(field: str) -> str:
    """The name under which a field is listed."""
    return next((short for short, name in SHORT_NAMES.items() if name == field), field)


def _preset_help() -> str:
    return f"settings that the other options change: {', '.join(preset_names())}, or a .yaml file's path"


def _metavar(annotation: Any) -> str:
    """What stands for a field's value: its choices, or what kind of value it is."""
    if get_origin(annotation) is Literal:
        return f"{{{','.join(map(str, get_args(annotation)))}}}"
    if get_origin(annotation) is tuple:
        return "NAME,..."
    kinds = get_args(annotation) or (annotation,)  # of "int | None"
    return {bool: "{true,false}", int: "INT", float: "FLOAT"}.get(kinds[0], "TEXT")


def _shown_value(values: Any, name: str, field: Any) -> str:
    """A field's value as it is typed; the field's default where the configuration does not hold it."""
    for part in name.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    value = field.get_default(call_default_factory=True) if values is None else values
    if isinstance(value, list | tuple):
        return ",".join(value) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
