"""The arithmetic of an evaluation, its seeds, and what the command writes."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from counting import Counting

import dreamer_jax
from dreamer_jax.core.config import EnvConfig
from dreamer_jax.core.errors import ConfigError, StorageError
from dreamer_jax.envs import env_seeds
from dreamer_jax.play.evaluate import EVALUATION_SEED, SELECTION_SEED, evaluate, evaluate_run

EVALUATE = Path(__file__).resolve().parents[2] / "scripts" / "evaluate.py"


@pytest.fixture
def run(finished_run, tmp_path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


class FirstChoice:
    """Always takes choice 0."""

    deterministic = True

    def initial(self, batch, seed):
        return None

    def __call__(self, obs, carry, is_first):
        return np.tile(np.float32([1, 0, 0]), (len(is_first), 1)), carry


@pytest.mark.parametrize("episodes", [1, 3, 20, 23])
def test_exactly_the_asked_number_of_episodes(episodes):
    result = evaluate(FirstChoice(), EnvConfig(task="import:counting:five"), episodes, seed=0)
    assert (result["episodes"], result["returns"], result["lengths"]) == (episodes, [15.0] * episodes, [5] * episodes)
    assert (result["return_mean"], result["return_std"], result["length_mean"]) == (15, 0, 5)
    assert result["success_mean"] is None


def test_short_episodes_are_not_preferred(monkeypatch):
    """Two environments, of 2 and 9 steps: five episodes are three of one and two of the other, however fast each is."""
    monkeypatch.setattr("dreamer_jax.play.evaluate.MAX_PARALLEL", 2)
    monkeypatch.setattr("counting._TURN", iter(range(2)))
    result = evaluate(FirstChoice(), EnvConfig(task="import:counting:short_or_long"), 5, seed=0)
    assert sorted(result["lengths"]) == [2, 2, 2, 9, 9]
    assert sorted(result["returns"]) == [3, 3, 3, 45, 45]
    assert (result["return_min"], result["return_max"], result["return_mean"]) == (3, 45, 99 / 5)


def test_evaluation_seeds_are_not_those_of_training(monkeypatch):
    seeds = []
    reset = Counting.reset

    def remember(self, *, seed=None, options=None):
        seeds.append(seed)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(Counting, "reset", remember)
    evaluate(FirstChoice(), EnvConfig(task="import:counting:five"), 3, seed=0)
    assert len(set(seeds)) == 3
    assert not set(seeds) & set(env_seeds(0, 3))


def test_evaluations_on_the_way_have_other_seeds_than_the_last_one():
    """The checkpoint that they choose is judged on episodes that did not choose it."""
    assert not set(env_seeds(EVALUATION_SEED, 20)) & set(env_seeds(SELECTION_SEED, 20))


def test_no_episodes_are_refused(finished_run):
    with pytest.raises(ConfigError, match="--episodes 0"):
        evaluate_run(finished_run, "last", 0, True, 0, "cpu", False)


def test_a_folder_that_cannot_be_written_is_refused_before_the_episodes(run, monkeypatch):
    monkeypatch.setattr("dreamer_jax.play.evaluate.evaluate", None)
    (run / "evaluations").write_text("a file in its place")
    with pytest.raises(StorageError, match="evaluations cannot be made: File exists"):
        evaluate_run(run, "last", 1, True, 0, "cpu", False)


def test_a_full_disk_is_named(run, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr("dreamer_jax.play.evaluate.write_json", full)
    with pytest.raises(StorageError, match=r"last-deterministic\.json cannot be written: No space left on device"):
        evaluate_run(run, "last", 1, True, 0, "cpu", False)


def test_the_library_names_it():
    assert dreamer_jax.evaluate is evaluate


def test_the_script_writes_numbers_and_a_video(run):
    here = Path(__file__).resolve().parents[1]
    result = subprocess.run(
        [sys.executable, str(EVALUATE), str(run), "--episodes", "3", "--deterministic"],
        env=os.environ | {"PYTHONPATH": f"{here}{os.pathsep}{here.parent}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "return 15.0 +- 0.0 (min 15.0, max 15.0) over 3 episodes" in result.stdout
    written = json.loads((run / "evaluations" / "last-deterministic.json").read_text())
    assert (written["returns"], written["deterministic"], written["checkpoint"]) == ([15.0] * 3, True, "last")
    assert len(iio.imread(run / "videos" / "last-deterministic.mp4", plugin="pyav")) == 6
