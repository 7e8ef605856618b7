"""How a run stands, in a file."""

import json
from datetime import UTC, datetime

import pytest

from dreamer_jax.core.errors import RunError
from dreamer_jax.runs.status import FILE, read_status, write_status


def test_round_trip(tmp_path):
    write_status(tmp_path, "stopped", "SIGTERM", 40, "dreamer train --resume RUN")
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]
    content = json.loads((tmp_path / FILE).read_text())
    assert abs((datetime.now(UTC) - datetime.fromisoformat(content.pop("time"))).total_seconds()) < 60
    assert content == {"status": "stopped", "reason": "SIGTERM", "frames": 40, "resume": "dreamer train --resume RUN"}
    assert read_status(tmp_path)["reason"] == "SIGTERM"


def test_an_old_run_has_none(tmp_path):
    assert read_status(tmp_path) == {}


@pytest.mark.parametrize(
    "content", ['{"status": "stopped"}', "[]", "{", '{"status": 5, "reason": "", "resume": "", "time": ""}']
)
def test_a_damaged_one_is_named(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(RunError, match=r"status\.json"):
        read_status(tmp_path)
