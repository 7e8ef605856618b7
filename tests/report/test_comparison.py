"""Groups of runs, and what they scored, by hand."""

import numpy as np
import pytest
from run_folders import make_run

from dreamer_jax.core.presets import load_config, parse_config
from dreamer_jax.report.comparison import make_panels, protocol_labels, round_width
from dreamer_jax.report.summary import read_run

WALKER = {"env__task": "dmc:walker_walk"}


def runs_of(tmp_path, *made):
    """A run for each mapping of `make_run`'s arguments."""
    return [read_run(make_run(tmp_path / str(i), **(WALKER | arguments))) for i, arguments in enumerate(made)]


def test_bins_of_a_task_with_published_curves(tmp_path):
    """Bins of 25,000 frames: (0, 25k], (25k, 50k]; the 5,000 frames beyond are not a whole bin."""
    returns = [(10_000, 100.0), (25_000, 200.0), (25_002, 500.0), (50_000, 700.0), (55_000, 999.0)]
    runs = runs_of(tmp_path, {"episodes": returns, "evaluation": 800.0}, {"episodes": [(50_000, 300.0)], "seed": 1})
    [panel], repeated = make_panels(runs)
    [group] = panel.groups
    assert (panel.suite, panel.title, repeated) == ("dmc_proprio", "dmc:walker_walk from state", [])
    assert (group.width, group.frames) == (25_000, 50_000)
    np.testing.assert_allclose(group.curves(), [[150.0, 600.0], [300.0, 300.0]])
    assert group.training() == {0: 600.0, 1: 300.0}
    assert group.training(25_000) == {0: 150.0}  # seed 1 had no episode by then
    assert group.evaluation("deterministic") == {0: 800.0}
    assert group.evaluation("sampled") == {0: 790.0}


def test_an_unfinished_run_that_is_not_that_far_is_left_out_of_the_mean(tmp_path):
    whole = [(25_000, 100.0), (50_000, 200.0)]
    runs = runs_of(
        tmp_path,
        {"episodes": whole, "evaluation": 1.0},
        {"episodes": whole[:1], "seed": 1},
        {"episodes": whole, "seed": 2},
    )
    [group] = make_panels(runs)[0][0].groups
    assert group.frames == 50_000
    assert group.training() == {0: 200.0, 2: 200.0}
    assert [run.config.seed for run in group.runs] == [0, 1, 2]


def test_unfinished_runs_alone_are_compared_where_the_shortest_is(tmp_path):
    whole = [(25_000, 100.0), (50_000, 200.0)]
    runs = runs_of(tmp_path, {"episodes": whole}, {"episodes": whole[:1], "seed": 1}, {"episodes": [(9, 1.0)], "seed": 2})
    [group] = make_panels(runs)[0][0].groups
    assert group.frames == 25_000
    assert group.training() == {0: 100.0, 1: 100.0}


def test_a_run_shorter_than_a_bin_has_no_score(tmp_path):
    [panel], _ = make_panels(runs_of(tmp_path, {"episodes": [(10_000, 1.0)], "evaluation": 5.0}))
    assert (panel.groups[0].frames, panel.groups[0].scored(), panel.groups[0].curves().size) == (0, (), 0)
    assert panel.groups[0].evaluation("deterministic") == {0: 5.0}


def test_of_one_seed_the_run_that_got_further_counts(tmp_path):
    short, long = [(25_000, 1.0)], [(25_000, 1.0), (50_000, 2.0)]
    runs = runs_of(tmp_path, {"episodes": long}, {"episodes": short}, {"episodes": short, "seed": 1})
    [panel], repeated = make_panels(runs)
    assert [run.path.name for run in panel.groups[0].runs] == ["0", "2"]
    assert [run.path.name for run in repeated] == ["1"]


def test_other_observations_and_tasks_are_other_panels(tmp_path):
    base = {"episodes": [(50_000, 1.0)]}
    runs = runs_of(tmp_path, base, base | {"env__obs": "pixels"}, base | {"env__task": "gym:Pendulum-v1"})
    panels, _ = make_panels(runs)
    assert [(panel.task, panel.suite) for panel in panels] == [
        ("dmc:walker_walk", "dmc_vision"),
        ("dmc:walker_walk", "dmc_proprio"),
        ("gym:Pendulum-v1", None),
    ]
    assert [panel.groups[0].width for panel in panels] == [50_000, 25_000, 5_000]


def test_a_changed_value_makes_another_curve_and_is_named():
    plain = load_config("dmc_proprio_cpu")
    seed = load_config("dmc_proprio_cpu", {"seed": 1, "env.task": "dmc:cheetah_run", "train.frames": 7, "device": "cpu"})
    assert protocol_labels([plain, seed]) == ["dmc_proprio_cpu"] * 2
    ratio = load_config("dmc_proprio_cpu", {"replay.train_ratio": 64})
    cartpole = load_config("cartpole")
    assert protocol_labels([plain, ratio, cartpole, seed]) == [
        "dmc_proprio_cpu (replay.train_ratio=128)",
        "dmc_proprio_cpu (replay.train_ratio=64)",
        "cartpole",
        "dmc_proprio_cpu (replay.train_ratio=128)",
    ]


def test_options_of_extensions_that_are_not_imported_tell_protocols_apart():
    """As a report reads them: one run chose the term with a weight, one with another, one did without."""
    plain = load_config("cartpole").model_dump(by_alias=True)
    smooth = [
        {**plain, "loss": {**plain["loss"], "terms": ["smooth"]}, "extensions": {"smooth": {"weight": w}}} for w in (1, 2)
    ]
    configs = [parse_config({**values, "imports": ["elsewhere"]}, "run") for values in (plain, *smooth)]
    assert protocol_labels(configs) == [
        "cartpole (loss.terms=none, extensions.smooth.weight=none)",
        "cartpole (loss.terms=smooth, extensions.smooth.weight=1)",
        "cartpole (loss.terms=smooth, extensions.smooth.weight=2)",
    ]


def test_a_size_is_named_once_and_not_by_its_widths():
    sizes = [load_config("dmc_proprio_paper", {"model.size": size}) for size in ("1m", "12m", "25m")]
    assert protocol_labels(sizes) == [f"dmc_proprio_paper (model.size={size})" for size in ("1m", "12m", "25m")]


@pytest.mark.parametrize(
    ("frames", "width"), [(10_000, 1_000), (19_999, 1_000), (20_000, 2_000), (50_000, 5_000), (1_500, 100), (9, 1), (0, 1)]
)
def test_round_width(frames, width):
    assert round_width(frames) == width
