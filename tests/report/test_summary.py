"""Summaries of runs."""

import json
import shutil

import pytest
from run_folders import make_run

from dreamer_jax.core.errors import RunError
from dreamer_jax.report.summary import find_runs, read_run, read_runs, runs_table, solved_at, summarise, summary_names


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


def ten_episodes(folder, evaluation):
    returns = [(100 * (i + 1), 490.0) for i in range(10)]
    return make_run(folder, returns, evaluation, preset="cartpole", seed=3)


def test_summary_and_table(tmp_path):
    summary = summarise(read_run(ten_episodes(tmp_path / "run", 480.0)), 475)
    assert summary["solved_at"] == 1000
    assert (summary["seed"], summary["action_repeat"], summary["train_ratio"], summary["obs"]) == (3, 1, 128, None)
    assert summary["git_commit"] == "0123456789abcdef"
    assert "returns" not in summary["deterministic"]
    head, _, line = runs_table([summary]).splitlines()
    assert line.strip("| ").split(" | ") == [
        "gym:CartPole-v1",
        "cartpole",
        "3",
        "1,000",
        "250",
        "1,000",
        "480.0 ± 2.5",
        "470.0 ± 2.5",
        "0.2",
        "cpu, 2 cores",
    ]
    assert "solved at" in head


def test_without_a_threshold_there_is_no_column_for_it(tmp_path):
    summary = summarise(read_run(ten_episodes(tmp_path / "run", 480.0)))
    assert "solved_at" not in summary
    head, _, line = runs_table([summary]).splitlines()
    assert "solved at" not in head
    assert line.count("|") == head.count("|") == 10


def test_an_unfinished_run_is_a_line_of_the_table(tmp_path):
    run = read_run(ten_episodes(tmp_path / "run", None))
    summary = summarise(run, 475)
    assert (summary["finished"], summary["frames"], summary["updates"], summary["deterministic"]) == (False, 1000, 250, None)
    assert runs_table([summary]).count("unfinished") == 2
    assert run.recent_return() == 490.0


def test_a_run_without_a_row_has_reached_nothing(tmp_path):
    run_folder = ten_episodes(tmp_path / "run", None)
    (run_folder / "metrics.jsonl").unlink()
    (run_folder / "environment.json").unlink()
    run = read_run(run_folder)
    assert (run.counter("frames"), run.recent_return()) == (0, None)
    assert "| unknown |" in runs_table([summarise(run)])


def test_runs_are_found_below_a_folder_once_each(tmp_path):
    first = ten_episodes(tmp_path / "a" / "deep" / "x", 480.0)
    second = ten_episodes(tmp_path / "b", 480.0)
    assert find_runs([tmp_path, second, tmp_path / "a"]) == [first, second]
    with pytest.raises(RunError, match="not a folder"):
        find_runs([tmp_path / "missing"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="holds none"):
        find_runs([second, tmp_path / "empty"])


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.yaml", "nope: 1\n", "unknown field"),
        ("evaluation.json", '{"frames": 1', "cannot be read as JSON"),
        ("evaluation.json", "[1]", "mapping"),
        ("evaluation.json", '{"frames": 1}', "lacks"),
        ("environment.json", '{"versions": 3}', "versions"),
        (
            "metrics.jsonl",
            '{"kind": "episode", "frames": 1, "decisions": 1, "updates": 1, "wall_seconds": 1}\n',
            "lacks a number",
        ),
        (
            "metrics.jsonl",
            '{"kind": "train", "frames": null, "decisions": 1, "updates": 1, "wall_seconds": 1}\n',
            "not finite",
        ),
    ],
)
def test_a_damaged_run_is_named_and_the_others_are_read(tmp_path, name, content, problem):
    good = ten_episodes(tmp_path / "good", 480.0)
    bad = tmp_path / "bad"
    shutil.copytree(good, bad)
    (bad / name).write_text(content)
    runs, damaged = read_runs([bad, good])
    assert [run.path for run in runs] == [good]
    assert damaged[0][0] == bad
    assert problem in damaged[0][1]


def test_names_of_summaries_do_not_collide_and_stay_in_the_folder():
    same = {"task": "dmc:walker_walk", "preset": "p", "seed": 0}
    other = {**same, "task": "../../x/$y"}
    assert summary_names([same, other, same, {**same, "preset": "q"}]) == [
        "dmc_walker_walk-p-seed0",
        "______x__y-p-seed0",
        "dmc_walker_walk-p-seed0-2",
        "dmc_walker_walk-q-seed0",
    ]


def test_a_summary_is_json(tmp_path):
    summary = summarise(read_run(ten_episodes(tmp_path / "run", 480.0)))
    assert json.loads(json.dumps(summary)) == summary
