"""The curves of a run in any state are a picture."""

import math

import imageio.v3 as iio
import pytest
from metrics_rows import make_row

from dreamer_jax.runs import curves


def curve_rows(episodes, updates):
    losses = dict.fromkeys((*curves.MAIN_LOSSES, "loss/decoder/state"), 1.0) | {"loss/policy": -0.1, "resident_mib": 700.0}
    rows = [make_row(frames, **losses) for frames in range(10, 10 + updates)]
    rows += [make_row(10 * k, "episode", length=9, **{"return": float(k)}) for k in range(episodes)]
    return rows + [make_row(10 * k, "eval", return_mean=float(k), return_std=1.0) for k in range(episodes // 5)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("episodes", "updates"), [(0, 0), (0, 5), (1, 1), (1, 0), (200, 300)])
def test_curves(tmp_path, episodes, updates):
    path = tmp_path / "curves.png"
    curves.draw_curves(curve_rows(episodes, updates), path, "task")
    picture = iio.imread(path)
    assert picture.shape[:2] == (720, 2400)
    assert picture.std() > 5  # not blank


@pytest.mark.filterwarnings("error")
def test_curves_of_a_run_that_diverged(tmp_path):
    rows = [make_row(1, **{"loss/total": math.nan}), make_row(2, "episode", length=1, **{"return": math.nan})]
    curves.draw_curves(rows, tmp_path / "curves.png", "task")
