"""Writes a JSON schema (draft 2020-12) of preset files, with which editors complete and check them.

An editor with yaml-language-server (VS Code: the extension "YAML") finds it by the first line of a preset:

  # yaml-language-server: $schema=dreamer.schema.json
"""

import json
from collections.abc import Sequence
from typing import Any

from pydantic.json_schema import models_json_schema

from dreamer_jax.cli.parser import CommandParser, absolute_path
from dreamer_jax.core.algorithm import ModelConfig
from dreamer_jax.core.config import Config, EnvConfig
from dreamer_jax.core.extensions import DOORS, import_extensions, options_classes
from dreamer_jax.core.files import make_folder, write_text


def main(arguments: Sequence[str]) -> None:
    """Runs the command."""
    parser = CommandParser("schema", __doc__)
    modules = "modules whose extensions the presets use: their options are part of the schema"
    parser.add_argument("--import", dest="modules", metavar="NAME,...", default="", help=modules)
    parser.add_argument("--output", type=absolute_path, help="file for the schema; by default it is printed")
    options = parser.read(arguments)
    import_extensions([name.strip() for name in options.modules.split(",") if name.strip()])
    text = json.dumps(preset_schema(), indent=2)
    if options.output is None:
        print(text)
        return
    make_folder(options.output.parent)
    write_text(options.output, text + "\n")
    print(f"wrote {options.output}")


def preset_schema() -> dict[str, Any]:
    """The JSON schema of a preset file: every field of a configuration, none required, and `base`.

    Options of the extensions that are imported have their own fields; those of others are unknown.
    """
    extensions = options_classes()
    families = [DOORS["family"].get(name).Options for name in DOORS["family"].outside_names()]
    models = dict.fromkeys([Config, EnvConfig, ModelConfig, *extensions.values(), *families])
    places, schema = models_json_schema([(model, "validation") for model in models], by_alias=True)
    properties = {
        model: schema["$defs"][places[model, "validation"]["$ref"].rpartition("/")[2]]["properties"]
        for model in (Config, EnvConfig, ModelConfig)
    }
    base = "name of the preset that this one changes, or the path of a .yaml file, relative to this one"
    properties[Config]["base"] = {"type": "string", "description": base}
    properties[Config]["extensions"] = {
        "type": "object",
        "description": "options of extensions",
        "properties": {name: places[options, "validation"] for name, options in extensions.items()},
        "additionalProperties": False,
    }
    if families:
        properties[EnvConfig]["options"] = {"anyOf": [places[options, "validation"] for options in dict.fromkeys(families)]}
    properties[ModelConfig]["representation"]["enum"] = DOORS["representation"].names()
    about = {"title": "Preset of dreamer_jax", "description": "Settings of a training run; what is left out has its default."}
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**draft, **about, **places[Config, "validation"], "$defs": _as_written(schema["$defs"])}


def _as_written(node: Any) -> Any:
    """A schema that takes what may stand in a file: fields left out, "a,b" for a list of names, none for null."""
    if isinstance(node, list):
        return [_as_written(part) for part in node]
    if not isinstance(node, dict):
        return node
    # Patterns are in the syntax of pydantic's Rust, which editors do not read.
    node = {
        key: _as_written(part) for key, part in node.items() if key not in ("required", "pattern") or isinstance(part, dict)
    }
    if node.get("type") == "array":
        return {key: part for key, part in node.items() if key not in ("type", "items")} | {
            "anyOf": [{"type": "array", "items": node.get("items", {})}, {"type": "string"}]
        }
    if {"type": "null"} in node.get("anyOf", ()):
        node["anyOf"] = [*node["anyOf"], {"const": "none"}]
    return node
