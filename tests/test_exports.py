"""What `import dreamer_jax` offers."""

import subprocess
import sys

import pytest

import dreamer_jax


@pytest.mark.parametrize("name", dreamer_jax.__all__)
def test_every_public_name_is_there(name):
    """And defined where it is looked up: a name that a module merely imports is not its own."""
    value = getattr(dreamer_jax, name)
    if name in dreamer_jax._EXPORTS:
        assert value.__module__.startswith(dreamer_jax._EXPORTS[name])


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'dreamer_jax' has no attribute 'nothing'"):
        dreamer_jax.nothing  # noqa: B018


def test_importing_the_package_loads_no_jax():
    code = "import sys, dreamer_jax; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


GLOBALS = """
import importlib, logging, os, pkgutil, signal, sys, warnings

def state():
    loggers = {name: (logger.level, len(logger.handlers)) for name, logger in logging.root.manager.loggerDict.items()
               if isinstance(logger, logging.Logger)}
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    return loggers, handlers, dict(os.environ), list(sys.path), list(warnings.filters), (sys.stdout, sys.stderr)

import jax, flax, optax, distrax, chex, orbax.checkpoint, gymnasium, matplotlib.figure, imageio.v3, tensorboardX, tqdm.auto
import flax.training.train_state, orbax.checkpoint.checkpoint_managers, pydantic, yaml
jax_before, before = dict(jax.config.values), state()
import dreamer_jax
for module in pkgutil.walk_packages(dreamer_jax.__path__, "dreamer_jax."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
after = state()
changed = {name: (before[0][name], value) for name, value in after[0].items() if name in before[0] and value != before[0][name]}
own = [name for name in after[0] if name.startswith("dreamer_jax") and after[0][name] != (0, 0)]
assert not changed and not own, (changed, own)
assert after[1:] == before[1:]
assert dict(jax.config.values) == jax_before
"""


def test_importing_every_module_changes_nothing_global():
    """Loggers, signal handlers, environment variables, paths, warnings, streams and JAX's settings stay as they were."""
    result = subprocess.run([sys.executable, "-c", GLOBALS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
