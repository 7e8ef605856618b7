"""`tests/survival.py`, which ends a run again and again: a short version of it, and that it finds what is wrong."""

import json
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import survival
from survival import End

from dreamer_jax.core.errors import ConfigError


@pytest.mark.ci
def test_a_run_survives(tmp_path):
    """Killed in a checkpoint and with no room left on its disk, it ends as if nothing had happened."""
    planned = [End(signal.SIGKILL, "checkpoint", 0.0), End(None, "training", 0.0)]
    lines: list[str] = []
    lives, problems = survival.survive(tmp_path / "survival", planned, 1000, lines.append)
    assert problems == []
    assert [life.status for life in lives] == [-9, 2]
    assert "cannot be written" in (tmp_path / "survival" / "life_2.log").read_text()
    assert lines[0] == survival.HEADER
    assert lines[1].startswith("| 1 | SIGKILL, 0.000 s after checkpoint | -9 | ")


def test_twenty_five_kills_are_of_all_kinds():
    planned = survival.ends(25, seed=0)
    assert Counter(end.signal for end in planned) == {signal.SIGKILL: 25, signal.SIGTERM: 2, signal.SIGINT: 2, None: 2}
    moments = Counter(end.moment for end in planned if end.signal is signal.SIGKILL)
    assert moments == {"start": 5, "training": 10, "checkpoint": 10}
    assert survival.ends(25, seed=0) == planned != survival.ends(25, seed=1)


def test_an_output_that_exists_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="exists; give a folder that does not"):
        survival.main(["--output", str(tmp_path)])


@pytest.fixture
def copy(finished_run, tmp_path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))


def test_the_same_run_does_not_differ(finished_run, copy):
    assert survival.differences(finished_run, copy) == []


def test_a_doubled_row_is_found(finished_run, copy):
    lines = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join([*lines[:4], lines[3], *lines[4:]]))
    assert survival.differences(finished_run, copy) == [f"rows differ from line 5 on ({len(lines)} and {len(lines) + 1} lines)"]


def test_another_evaluation_is_found(finished_run, copy):
    result = json.loads((copy / "evaluation.json").read_text())
    result["sampled"]["return_mean"] += 1e-6
    (copy / "evaluation.json").write_text(json.dumps(result))
    assert survival.differences(finished_run, copy) == ["the evaluations differ"]


def test_another_agent_is_found(finished_run, copy):
    """One update earlier: the checkpoint before the last."""
    steps = sorted((copy / "checkpoints").iterdir(), key=lambda path: int(path.name))
    shutil.rmtree(steps[-1])
    assert survival.differences(finished_run, copy) == ["the agents differ"]
