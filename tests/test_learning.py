"""The agent learns: returns after training are far above those of random play."""

import json

import pytest

import dreamer_jax

QUIET = {"train.tensorboard": False, "train.video": False}


def deterministic_return(tmp_path, preset: str, **changes) -> float:
    """Trains a preset and evaluates the last agent -> mean return of its most likely actions."""
    options = {name.replace("__", "."): value for name, value in changes.items()}
    run = dreamer_jax.train(dreamer_jax.load_config(preset, {"runs": str(tmp_path), **QUIET, **options}))
    return json.loads((run / "evaluation.json").read_text())["deterministic"]["return_mean"]


def test_cartpole_is_being_learned(tmp_path):
    """A quarter of the preset. Random play balances the pole for 22 steps."""
    mean = deterministic_return(tmp_path, "cartpole", train__frames=2500, train__eval_every=0, train__final_episodes=20)
    assert mean >= 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_cartpole_is_solved(tmp_path):
    """The whole preset; 475 of 500 steps over 100 episodes is the task's own measure of "solved"."""
    assert deterministic_return(tmp_path, "cartpole") >= 475


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_pendulum_is_solved(tmp_path):
    """The whole preset. Random play returns about -1200; a pendulum swung up and held upright, about -150."""
    assert deterministic_return(tmp_path, "pendulum") >= -250


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_catch_is_learned_from_pixels(tmp_path):
    """The whole preset, under 20 minutes on two cores. A paddle that never moves catches 1/8 of the balls."""
    assert deterministic_return(tmp_path, "catch") >= 0.9
