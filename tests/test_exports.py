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
