"""The JSON schema of preset files, against the presets of the project and documents made by hand."""

import json
import sys
from typing import Any

import jsonschema
import pytest
import yaml

from dreamer_jax.cli import schema
from dreamer_jax.cli.schema import preset_schema
from dreamer_jax.core.extensions import DOORS
from dreamer_jax.core.options import field_names
from dreamer_jax.core.presets import CONFIG_FOLDER


def mistakes(document: Any) -> list[str]:
    """The places of a document that the schema refuses."""
    validator = jsonschema.Draft202012Validator(preset_schema())
    return [".".join(map(str, error.absolute_path)) for error in validator.iter_errors(document)]


def as_editors_read(value: Any) -> Any:
    """PyYAML takes 5e-4 for text, as YAML 1.1 does; editors read YAML 1.2."""
    if isinstance(value, dict):
        return {key: as_editors_read(part) for key, part in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(preset_schema())
    assert preset_schema()["$schema"] == "https://json-schema.org/draft/2020-12/schema"


@pytest.mark.parametrize("path", sorted(CONFIG_FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_fits(path):
    assert mistakes(as_editors_read(yaml.safe_load(path.read_text()))) == []


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"base": "catch", "model": {"representation": "contrastive"}, "loss": {"continue": 0.5}},
        {"base": "../mine.yaml", "imports": ["a.b"], "train": {"callbacks": "a,b", "frames": 1e6, "minutes": 2.5}},
        {"env": {"camera": None}, "optimizer": {"actor_rate": "none"}, "extensions": {}},
    ],
)
def test_what_may_be_written(document):
    assert mistakes(document) == []


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ({"sede": 1}, ""),
        ({"env": {"tsk": "x"}}, "env"),
        ({"loss": {"continue_": 1}}, "loss"),
        ({"base": 3}, "base"),
        ({"seed": -1}, "seed"),
        ({"train": {"frames": 1.5}}, "train.frames"),
        ({"train": {"minutes": "soon"}}, "train.minutes"),
        ({"device": "abacus"}, "device"),
        ({"model": {"representation": "reconstructed"}}, "model.representation"),
        ({"behavior": {"planner": {"horizon": 0}}}, "behavior.planner.horizon"),
        ({"extensions": {"unknown": {}}}, "extensions"),
        ({"train": {"callbacks": 5}}, "train.callbacks"),
        ([], ""),
    ],
)
def test_what_may_not_be_written(document, place):
    assert mistakes(document) == [place]


def test_every_field_is_described():
    """Each dotted name leads to a property that has the field's description."""
    whole = preset_schema()

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        return whole["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node

    for name, field in field_names():
        node = whole
        for part in name.split("."):
            node = resolved(node)["properties"][part]
        assert node["description"] == field.description, name


IDEAS = """
from dreamer_jax.core.extensions import Extension, register
from dreamer_jax.core.section import Section
from pydantic import Field


class Inner(Section):
    depth: int = Field(default=1, ge=1, description="how deep")


@register("smooth_schema")
class Term(Extension):
    door = "loss"

    class Options(Section):
        weight: float = Field(default=1.0, ge=0, description="its weight")
        inner: Inner = Field(default_factory=Inner, description="more")


@register("mazes")
class Mazes(Extension):
    door = "family"

    class Options(Section):
        size: int = Field(default=9, ge=5, description="width of the maze")


@register("pictures")
class Pictures(Extension):
    door = "representation"
"""


@pytest.fixture
def ideas(tmp_path, monkeypatch):
    (tmp_path / "schema_ideas.py").write_text(IDEAS)
    monkeypatch.syspath_prepend(tmp_path)
    for door in ("loss", "family", "representation"):
        monkeypatch.setattr(DOORS[door], "_classes", dict(DOORS[door]._classes))
    yield "schema_ideas"
    sys.modules.pop("schema_ideas", None)


def test_imported_extensions_are_part_of_it(ideas, tmp_path, capsys):
    document = {
        "imports": [ideas],
        "env": {"task": "mazes:small", "options": {"size": 5}},
        "model": {"representation": "pictures"},
        "extensions": {"smooth_schema": {"inner": {"depth": 2}}},
    }
    assert sorted(mistakes(document)) == ["env.options", "extensions", "model.representation"]
    file = tmp_path / "made" / "dreamer.schema.json"
    schema.main(["--import", ideas, "--output", str(file)])
    assert capsys.readouterr().out == f"wrote {file}\n"
    assert json.loads(file.read_text()) == preset_schema()
    assert mistakes(document) == []  # and nothing is required: weight is missing
    document["extensions"]["smooth_schema"]["inner"]["depth"] = 0
    document["env"]["options"]["size"] = "large"
    assert sorted(mistakes(document)) == ["env.options", "extensions.smooth_schema.inner.depth"]


def test_it_is_printed_without_a_file(capsys):
    schema.main([])
    assert json.loads(capsys.readouterr().out) == preset_schema()
