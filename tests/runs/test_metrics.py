"""A run's numbers survive crashes and resumes, and what is no row is named."""

import json
import math
import os
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from metrics_rows import make_row, write_rows

from dreamer_jax.core.errors import ConfigError, RunError
from dreamer_jax.runs.metrics import FILE_NAME, MetricsLog, of_kind, read_metrics, truncate


def test_round_trip(tmp_path):
    rows = [make_row(8, note="start", **{"loss/total": 0.1}), make_row(9, "episode", length=7, **{"return": -3.5})]
    assert read_metrics(write_rows(tmp_path / "new" / "run", rows)) == rows


def test_every_row_is_on_disk_when_write_returns(tmp_path):
    log = MetricsLog(tmp_path)
    for count in (1, 2, 3):
        log.write(make_row(count))
        assert len(read_metrics(tmp_path / FILE_NAME)) == count
    log.close()


def test_numpy_scalars_and_numbers_json_lacks(tmp_path):
    values = {"a": np.float32(0.5), "b": np.int64(3), "c": np.nan, "d": np.float32("inf"), "e": -math.inf}
    path = write_rows(tmp_path, [make_row(np.int32(4), **values)])
    raw = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (raw["frames"], raw["a"], raw["b"], raw["c"], raw["d"], raw["e"]) == (4, 0.5, 3, None, None, None)
    assert math.isnan(read_metrics(path)[0]["c"])


@pytest.mark.parametrize("name", ["kind", "frames", "decisions", "updates", "wall_seconds"])
def test_rows_without_a_counter_are_refused(tmp_path, name):
    row = make_row(1)
    del row[name]
    log = MetricsLog(tmp_path)
    with pytest.raises(AssertionError, match=name):
        log.write(row)
    with pytest.raises(AssertionError, match="known"):
        log.write(make_row(1, kind="test"))
    log.close()


def test_a_file_torn_at_any_byte_keeps_its_whole_rows(tmp_path):
    rows = [make_row(1), make_row(2, x="é")]
    path = write_rows(tmp_path, rows)
    content = path.read_bytes()
    first_end = content.index(b"\n") + 1
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        whole = (size >= first_end - 1) + (size >= len(content) - 1)
        assert read_metrics(path) == rows[:whole], size


@pytest.mark.parametrize("damage", [b'{"kind": "tr', b"", b"5", b'{"kind": "train"}', b"\x00\xff"])
def test_a_damaged_line_in_the_middle_is_named(tmp_path, damage):
    path = write_rows(tmp_path, [make_row(1), make_row(2), make_row(3)])
    lines = path.read_bytes().split(b"\n")
    lines[1] = damage
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RunError, match="line 2 "):
        read_metrics(path)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"kind": "test"}, "it is no row of a kind in"),
        ({"kind": ["train"]}, "it is no row of a kind in"),
        ({"frames": "x"}, "frames is 'x'"),
        ({"frames": True}, "frames is True"),
        ({"frames": 1.5}, "frames is 1.5"),
        ({"updates": -1}, "updates is -1"),
        ({"decisions": 10**400}, "decisions is 10000"),
        ({"wall_seconds": math.inf}, "wall_seconds is inf"),
        ({"wall_seconds": None}, "wall_seconds is None"),
        ({"kind": "episode"}, "it lacks a number, 'return'"),
        ({"kind": "episode", "return": "x"}, "'return' is 'x'; a number was expected"),
        ({"kind": "eval", "return_mean": 1.0}, "it lacks a number, 'return_std'"),
        ({"kind": "eval", "return_mean": 1.0, "return_std": -1.0}, "return_std is -1.0; a deviation is not negative"),
        ({"loss/total": "x"}, "'loss/total' is 'x'; a number was expected"),
        ({"x": 10**400}, "'x' is 1000"),
        ({"x": math.inf}, "'x' is inf; a number was expected"),
        ({"x": [1]}, "'x' is [1]; a number was expected"),
    ],
)
@pytest.mark.parametrize("last", [False, True])
def test_a_row_that_cannot_be_is_named(tmp_path, change, problem, last):
    """Also in the last line, since it is not torn."""
    rows = [make_row(1), {**make_row(2), **change}, *([] if last else [make_row(3)])]
    (tmp_path / FILE_NAME).write_text("".join(json.dumps(row) + "\n" for row in rows))
    for reader in (lambda: read_metrics(tmp_path / FILE_NAME), lambda: truncate(tmp_path, 1)):
        with pytest.raises(RunError, match="line 2 is damaged: ") as refused:
            reader()
        assert problem in str(refused.value)


def test_lists_within_lists_are_no_row(tmp_path):
    path = write_rows(tmp_path, [make_row(1), make_row(2)])
    path.write_bytes(b"[" * 100_000 + b"\n" + path.read_bytes())
    with pytest.raises(RunError, match="line 1 is damaged: it is not JSON"):
        read_metrics(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RunError, match=r"metrics\.jsonl cannot be read"):
        read_metrics(tmp_path / FILE_NAME)


def test_resume_neither_doubles_nor_loses_rows(tmp_path):
    rows = [make_row(frames, x=math.nan) for frames in range(1, 11)]
    path = write_rows(tmp_path, rows)
    once = path.read_bytes()
    path.write_bytes(once[:-9])  # killed while the last row was written
    truncate(tmp_path, frames=6)
    assert [row["frames"] for row in read_metrics(path)] == [1, 2, 3, 4, 5, 6]
    write_rows(tmp_path, rows[6:], resume=True)
    assert path.read_bytes() == once
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_rows_after_a_checkpoint_at_the_same_frame_are_dropped(tmp_path):
    rows = [make_row(frames, x=float(i)) for i, frames in enumerate((1, 2, 2, 2, 3))]
    path = write_rows(tmp_path, rows)
    truncate(tmp_path, frames=2, count=3)
    assert read_metrics(path) == rows[:3]
    truncate(tmp_path, frames=1, count=3)  # a file that somebody has shortened
    assert read_metrics(path) == rows[:1]


def test_the_rows_of_a_log_are_counted(tmp_path):
    log = MetricsLog(tmp_path)
    log.write(make_row(1))
    assert log.rows == 1
    log.close()
    log = MetricsLog(tmp_path, resume=True)
    log.write(make_row(2))
    assert log.rows == len(read_metrics(tmp_path / FILE_NAME)) == 2
    log.close()


def test_resume_repairs_a_torn_tail_itself(tmp_path):
    path = write_rows(tmp_path, [make_row(1), make_row(2)])
    path.write_bytes(path.read_bytes()[:-9])
    write_rows(tmp_path, [make_row(3)], resume=True)
    assert [row["frames"] for row in read_metrics(path)] == [1, 3]


def test_a_crash_while_truncating_keeps_the_old_rows(tmp_path, monkeypatch):
    path = write_rows(tmp_path, [make_row(1), make_row(2)])
    before = path.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        truncate(tmp_path, frames=1)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


def test_truncate_and_resume_without_rows(tmp_path):
    truncate(tmp_path, frames=1)
    assert not list(tmp_path.iterdir())
    assert read_metrics(write_rows(tmp_path, [make_row(1)], resume=True)) == [make_row(1)]


def test_a_new_run_never_writes_into_an_old_one(tmp_path):
    path = write_rows(tmp_path, [make_row(1)])
    with pytest.raises(RunError, match="--resume"):
        MetricsLog(tmp_path)
    assert len(read_metrics(path)) == 1


def test_rows_of_one_kind_keep_their_order():
    rows = [make_row(1), make_row(2, "eval"), make_row(3)]
    assert of_kind(rows, "train") == [rows[0], rows[2]]
    assert of_kind(rows, "episode") == []


def test_a_run_is_read_by_its_folder(tmp_path):
    path = write_rows(tmp_path, [make_row(1)])
    assert read_metrics(tmp_path) == read_metrics(str(path)) == [make_row(1)]


def test_rows_are_a_table(tmp_path):
    """Columns in the order in which they come up; what a row lacks is empty, and words cannot be HTML."""
    write_rows(tmp_path, [make_row(8, x=0.123456789), make_row(9, "eval", return_mean=2.0, return_std=0.0, note="<b>")])
    rows = read_metrics(tmp_path)
    counters = ["kind", "frames", "decisions", "updates", "wall_seconds"]
    assert rows.columns == [*counters, "x", "return_mean", "return_std", "note"]
    table = ElementTree.fromstring(f"<div>{rows._repr_html_()}</div>")
    assert [cell.text for cell in table.iter("th")] == rows.columns
    assert [[cell.text for cell in line.iter("td")] for line in table.find("table/tbody")] == [
        ["train", "8", "8", "4", "1", "0.123457", None, None, None],
        ["eval", "9", "9", "4", "1.125", None, "2", "0", "<b>"],
    ]
    assert table.find("p").text == "2 of 2 rows"
    assert of_kind(rows, "eval").columns == [*counters, "return_mean", "return_std", "note"]


def test_a_long_table_is_cut(tmp_path):
    write_rows(tmp_path, [make_row(frames) for frames in range(60)])
    table = ElementTree.fromstring(f"<div>{read_metrics(tmp_path)._repr_html_()}</div>")
    assert len(table.find("table/tbody")) == 50
    assert table.find("p").text == "50 of 60 rows"


def test_rows_become_a_data_frame(tmp_path, monkeypatch):
    pandas = pytest.importorskip("pandas")
    write_rows(tmp_path, [make_row(8, x=0.5), make_row(9)])
    frame = read_metrics(tmp_path).to_pandas()
    assert frame["frames"].tolist() == [8, 9]
    assert pandas.isna(frame["x"]).tolist() == [False, True]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match="pip install pandas"):
        read_metrics(tmp_path).to_pandas()


def test_what_reads_runs_loads_no_jax():
    modules = ", ".join(f"dreamer_jax.runs.{name}" for name in ("metrics", "status", "curves", "folder", "budget"))
    code = f"import sys, {modules}; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
