"""Studies: curves and intervals by hand, and both studies with runs made by hand in the place of training."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
from run_folders import make_run, result

from dreamer_jax.analysis import studies
from dreamer_jax.analysis.ppo import train_ppo
from dreamer_jax.analysis.studies import Curve
from dreamer_jax.benchmark.suites import Run
from dreamer_jax.core.errors import ConfigError, RunError
from dreamer_jax.core.presets import load_config

EPISODES = [(100 * (i + 1), 10.0 * i) for i in range(30)]  # returns 0, 10, ... 290


def rows(episodes=EPISODES, plus: float = 0.0) -> list[dict]:
    return [{"kind": "episode", "frames": frames, "return": value + plus} for frames, value in episodes]


def test_recent_return():
    """The mean of the last ten that ended: of the first one alone at 100, none before."""
    at = np.array([99, 100, 250, 1000, 1999, 3000])
    np.testing.assert_allclose(studies.recent_return(rows(), at), [np.nan, 0, 5, 45, 135, 245])


def test_summary_table():
    """The last ten of n episodes average 10 n - 55: 200 is passed at frame 2,600, with 10 more at 2,500; t is 12.7."""
    curves = [Curve("a", 0, rows()), Curve("a", 1, rows(plus=10)), Curve("b", 0, rows(plus=-200))]
    lines = studies.summary_table(curves, 200, {"a": {"minutes": "1.5"}}).splitlines()
    assert lines[0] == "|  | seeds | steps to a mean of 200 | steps of a run | minutes |"
    assert lines[2] == "| a | 2 | 2,550 ± 635 (2 of 2 seeds) | 3,000 | 1.5 |"
    assert lines[3] == "| b | 1 | never | 3,000 | - |"


def test_ppo_beside_runs(tmp_path, monkeypatch):
    """PPO's episodes are kept, and not made again; the runs are grouped by their preset."""
    runs = [make_run(tmp_path / "runs" / f"{i}", EPISODES, 200, preset="cartpole", seed=i) for i in range(2)]
    trained = []

    def train(config, seed, steps):
        trained.append((config.env.task, seed, steps))
        return {"task": config.env.task, "steps": steps, "episodes": [[frames * 10, value] for frames, value in EPISODES]}

    monkeypatch.setattr(studies, "train_ppo", train)
    for _ in range(2):
        studies.study_ppo([tmp_path / "runs"], seeds=2, steps=500, threshold=200, output=tmp_path / "out")
    assert trained == [("gym:CartPole-v1", 0, 500), ("gym:CartPole-v1", 1, 500)]
    table = (tmp_path / "out" / "ppo.md").read_text()
    assert "| cartpole | 2 | 2,600 ± 0 (2 of 2 seeds) | 3,000 |" in table
    assert "| PPO | 2 | 26,000 ± 0 (2 of 2 seeds) | 30,000 |" in table
    assert iio.imread(tmp_path / "out" / "ppo.png").std() > 5
    assert len(runs) == 2
    with pytest.raises(RunError, match=r"ppo-0\.json is of gym:CartPole-v1 and 500 steps, not of .* 700 steps"):
        studies.study_ppo([tmp_path / "runs"], seeds=2, steps=700, threshold=200, output=tmp_path / "out")


def test_runs_without_an_episode_are_refused(tmp_path):
    make_run(tmp_path / "a", [], preset="cartpole")
    with pytest.raises(RunError, match="has no finished episode yet"):
        studies.study_ppo([tmp_path], 1, 10, 200, tmp_path / "out")


@pytest.mark.parametrize(
    ("preset", "horizons", "seeds", "message"),
    [
        ("cartpole", (15, 5000), 1, "imagination_horizon='5000'"),
        ("planet", (15, 50), 1, "has no actor and critic"),
        ("cartpole", (15, 50), 0, "--seeds 0"),
    ],
)
def test_mistakes_are_found_before_the_first_run(tmp_path, monkeypatch, preset, horizons, seeds, message):
    monkeypatch.setattr(studies, "run_benchmark", lambda plan: pytest.fail("a run was started"))
    with pytest.raises(ConfigError, match=message):
        studies.study_horizon(preset, horizons, seeds, 200, {}, tmp_path)


def test_runs_of_several_tasks_are_refused(tmp_path):
    make_run(tmp_path / "a", EPISODES, 200, preset="cartpole")
    make_run(tmp_path / "b", EPISODES, 200, preset="pendulum")
    with pytest.raises(ConfigError, match=r"runs of one task are needed; .* have gym:CartPole-v1, gym:Pendulum-v1"):
        studies.study_ppo([tmp_path], 1, 10, 200, tmp_path / "out")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    with pytest.raises(
        ConfigError, match=r'PPO needs stable_baselines3, which is not installed: pip install "dreamer_jax\[ppo\]"'
    ):
        train_ppo(load_config("cartpole"), 0, 10)


def test_horizons(tmp_path, monkeypatch):
    """Each horizon is a benchmark of its own; returns, relative value errors and minutes of its seeds stand in the table."""
    plans = []

    def benchmark(plan):
        plans.append(plan)
        return 0

    def finished(plan):
        horizon = plan.configs[0].behavior.imagination_horizon
        made = []
        for config in plan.configs:
            folder = plan.output / "runs" / str(config.seed)
            make_run(folder, EPISODES, 200 + config.seed, preset="cartpole", seed=config.seed)
            evaluation = {"wall_seconds": 60.0 * horizon, "deterministic": result(200 + config.seed)}
            made.append(Run(config, folder, evaluation))
        return made

    monkeypatch.setattr(studies, "run_benchmark", benchmark)
    monkeypatch.setattr(studies, "read_runs", finished)
    monkeypatch.setattr(
        studies.imagination,
        "diagnose",
        lambda *args: {"agent": {"value_error": 5.0, "return_mean": -50.0, "drift": np.arange(50) / 10}},
    )
    assert studies.study_horizon("cartpole", (15, 50), 2, 200, {"train.frames": "4000"}, tmp_path) == 0
    assert [plan.configs[0].behavior.imagination_horizon for plan in plans] == [15, 50]
    assert {config.train.frames for plan in plans for config in plan.configs} == {4000}
    table = (tmp_path / "horizon.md").read_text()
    assert (
        "| 15 steps | 2 | 2,600 ± 0 (2 of 2 seeds) | 3,000 | 200.5 ± 6.4 | 0.100 ± 0.000 | 1.40 ± 0.00 | 15.0 ± 0.0 |" in table
    )
    assert json.loads((tmp_path / "horizon.json").read_text())["50 steps"]["minutes"] == [50.0, 50.0]
    assert iio.imread(tmp_path / "horizon.png").std() > 5


def test_a_study_stops_where_a_benchmark_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(studies, "run_benchmark", lambda plan: 1)
    assert studies.study_horizon("cartpole", (15, 50), 1, 200, {}, tmp_path) == 1
    assert not (tmp_path / "horizon.md").exists()
