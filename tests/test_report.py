"""Summaries of runs."""

import json

import pytest

from dreamer_jax.config import ConfigError, load_config, write_yaml
from dreamer_jax.report import markdown_table, solved_at, summarise


def episodes(returns, every=100):
    """Episode rows, one each `every` frames."""
    return [{"kind": "episode", "frames": every * (i + 1), "return": value} for i, value in enumerate(returns)]


def test_solved_at_is_the_first_window_of_ten_that_reaches_the_threshold():
    rows = episodes([0.0] * 5 + [500.0] * 20)
    # Ten episodes with nine of 500 and one of 0 have mean 450: the fifth zero leaves the window with episode 15.
    assert solved_at(rows, 475) == 1500
    assert solved_at(rows, 450) == 1400
    assert solved_at(rows, 501) is None
    assert solved_at(episodes([500.0] * 9), 475) is None


def test_other_rows_do_not_count():
    rows = episodes([500.0] * 10)
    assert solved_at([{"kind": "eval", "frames": 1, "return_mean": 0.0}, *rows], 475) == 1000


def test_summary_and_table(tmp_path):
    config = load_config("cartpole", {"seed": 3})
    write_yaml(config, tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="not finished"):
        summarise(tmp_path, 475)
    result = {"return_mean": 480.0, "return_std": 2.5, "return_min": 470.0, "return_max": 500.0, "episodes": 2, "returns": []}
    evaluation = {"frames": 1000, "updates": 40, "wall_seconds": 90.0, "deterministic": result, "sampled": result}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "environment.json").write_text(json.dumps({"device": "cpu", "cores": 2}))
    rows = [row | {"decisions": 0, "updates": 0, "wall_seconds": 0.0, "length": 1} for row in episodes([490.0] * 10)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = summarise(tmp_path, 475)
    assert summary["solved_at"] == 1000
    assert summary["seed"] == 3
    assert "returns" not in summary["deterministic"]
    cells = markdown_table([summary]).splitlines()[-1].strip("| ").split(" | ")
    assert cells == [
        "gym:CartPole-v1",
        "cartpole",
        "3",
        "1,000",
        "40",
        "1,000",
        "480.0 ± 2.5",
        "480.0 ± 2.5",
        "1.5",
        "cpu, 2 cores",
    ]
