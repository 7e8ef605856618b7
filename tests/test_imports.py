"""Imports run one way, and the host side does not know JAX."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dreamer_jax

PACKAGE = Path(dreamer_jax.__file__).parent
# Every module may import from the rows above its own.
COMPILED = (
    {"types", "config", "spaces", "seeds"},
    {"distributions", "devices"},
    {"latents", "layers", "steps"},
    {"cores", "images"},
    {"networks"},
    {"rssm"},
    {"prototypes"},
    {"representation"},
    {"world_model", "behavior"},
    {"optimizer", "planner"},
    {"train_step", "policy", "flops"},
)
HOST = {
    "config",
    "spaces",
    "replay",
    "segments",
    "metrics",
    "envs",
    "runs",
    "host_state",
    "moment",
    "announce",
    "memory",
    "plots",
    "scores",
    "report",
    "benchmark",
    "diagnosis_report",
}
JOINING = {
    "learner",
    "loop",
    "training",
    "evaluation",
    "checkpoint",
    "cli",
    "speed",
    "cost_curves",
    "diagnosis",
    "studies",
    "ppo",
    "seed_run",
    "survival",
}
MODULES = sorted({path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} | {"envs", "report", "benchmark"})


def _imports(module: str) -> tuple[set[str], set[str]]:
    """Modules of this package, and other top-level packages, that a module imports anywhere in its text."""
    paths = sorted((PACKAGE / module).glob("*.py")) if (PACKAGE / module).is_dir() else [PACKAGE / f"{module}.py"]
    names = set()
    for node in (node for path in paths for node in ast.walk(ast.parse(path.read_text()))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    own = {name.split(".")[1] for name in names if name.startswith("dreamer_jax.")}
    return own - {module}, {name.split(".")[0] for name in names} - {"dreamer_jax"}


def test_every_module_has_a_side():
    """A new module has to be placed in one of the tables here."""
    assert set(MODULES) == set.union(*COMPILED) | HOST | JOINING


@pytest.mark.parametrize("module", sorted(set.union(*COMPILED)))
def test_the_compiled_side_imports_upwards_only(module):
    """types, config and the like <- distributions <- networks <- rssm <- losses <- optimizer <- train step and policy."""
    row = next(i for i, names in enumerate(COMPILED) if module in names)
    assert _imports(module)[0] <= set.union(set(), *COMPILED[:row])


@pytest.mark.parametrize("module", sorted(HOST))
def test_the_host_side_imports_the_host_side_only(module):
    """Neither the compiled side nor JAX and its libraries, not even inside a function."""
    own, others = _imports(module)
    assert own <= HOST
    assert not others & {"jax", "flax", "optax", "distrax", "chex", "orbax"}


def test_the_host_side_runs_without_jax():
    """Importing every host module, with all that its dependencies pull in, does not load JAX."""
    names = [f"dreamer_jax.{module}" for module in sorted(HOST)]
    code = (
        f"import importlib, sys\nfor name in {names}:\n    importlib.import_module(name)\n    assert 'jax' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
