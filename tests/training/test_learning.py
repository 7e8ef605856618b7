"""The agent learns: returns after training are far above those of random play."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TRAIN = Path(__file__).resolve().parents[2] / "scripts" / "train.py"


def deterministic_return(tmp_path: Path, preset: str, *options: str) -> float:
    """Trains a preset as a user does, and evaluates the last agent -> mean return of its most likely actions."""
    quiet = ["--train.tensorboard", "false", "--eval.video", "false"]
    ours = {"XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"}  # for programs that are compiled quickly
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, str(TRAIN), "--preset", preset, "--runs", str(tmp_path), *quiet, *options]
    subprocess.run(command, env=environment, check=True)
    [result] = tmp_path.glob("*/*/evaluation.json")
    return json.loads(result.read_text())["deterministic"]["return_mean"]


def test_cartpole_is_being_learned(tmp_path):
    """The first 2,000 of 10,000 frames. Random play balances the pole for 22 steps."""
    short = ["--train.frames", "2000", "--eval.every", "0", "--eval.final_episodes", "20"]
    assert deterministic_return(tmp_path, "cartpole", *short) >= 100


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
