"""The limits of the package's structure; `lint-imports` holds which package may import which."""

import subprocess
import sys
import tomllib

import pytest
import structure

MAX_DEPTH = 8  # of imports over packages, scripts included
MAX_LINES = 350  # of a module
TESTS = structure.ROOT / "tests"
PACKAGES = sorted(path.parent.name for path in structure.PACKAGE.glob("*/__init__.py"))


def test_levels_and_chains():
    """A small graph, worked by hand: a imports b and c, b imports c, d stands alone."""
    imports = {"a": {"b", "c"}, "b": {"c"}, "c": set(), "d": set()}
    assert structure.levels(imports) == {"a": 3, "b": 2, "c": 1, "d": 1}
    assert structure.longest_chain(imports) == ["a", "b", "c"]
    assert structure.longest_chain({}) == []


def test_imports_are_not_deep():
    level = structure.levels(structure.package_imports())
    assert level.keys() == {*PACKAGES, structure.SCRIPTS}
    assert max(level.values()) <= MAX_DEPTH, level


def test_modules_are_short():
    lines = {str(path.relative_to(structure.ROOT)): structure.lines(path) for path in structure.PACKAGE.rglob("*.py")}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_every_folder_of_tests_is_a_package():
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert [str(folder) for folder in sorted(folders) if not (structure.PACKAGE / folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_tests(package):
    assert list((TESTS / package).rglob("test_*.py"))


def test_the_command_prints_every_package():
    command = [sys.executable, str(TESTS / "structure.py")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in output.splitlines() if line[:5].strip().isdecimal()} == {*PACKAGES, structure.SCRIPTS}


def test_the_host_side_starts_without_jax():
    """Importing every module that must not import JAX, with all that its dependencies import, does not load JAX."""
    contracts = tomllib.loads((structure.ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    packages = next(contract["source_modules"] for contract in contracts if "jax" in contract.get("forbidden_modules", ()))
    code = f"""
import importlib, pkgutil, sys
for package in {packages}:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
        assert "jax" not in sys.modules, module.name
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
