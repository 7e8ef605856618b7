"""One base class for all errors; those of bad input are ValueErrors too."""

import inspect

import pytest

from dreamer_jax.core import errors

ALL = {name: error for name, error in vars(errors).items() if inspect.isclass(error) and issubclass(error, Exception)}
NOT_OF_INPUT = {"CallbackError", "DreamerError", "StorageError", "DivergedError"}


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_error_has_the_base_and_the_kind(name):
    assert issubclass(ALL[name], errors.DreamerError)
    assert issubclass(ALL[name], ValueError) == (name not in NOT_OF_INPUT)
    assert ALL[name].__doc__


def test_kinds_are_told_apart():
    assert not issubclass(errors.RunError, errors.ConfigError)
    assert issubclass(errors.DamagedError, errors.CheckpointError)
    assert issubclass(errors.ActionError, errors.EnvError)
