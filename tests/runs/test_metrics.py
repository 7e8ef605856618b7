"""A run's numbers survive crashes and resumes; pictures and videos are what they should be."""

import io
import json
import math
import subprocess
import sys
import types

import imageio.v3 as iio
import numpy as np
import pytest

from dreamer_jax.core.config import Config, TrainConfig
from dreamer_jax.core.errors import ConfigError
from dreamer_jax.runs import curves, metrics
from dreamer_jax.runs.metrics import FILE_NAME, MetricsLog, Progress, read_metrics, truncate

QUIET = Config(train=TrainConfig(tensorboard=False))


def make_row(frames, kind="train", **values):
    return {"kind": kind, "frames": frames, "decisions": frames, "updates": frames // 2, "wall_seconds": frames / 8, **values}


def write_rows(folder, rows, config=QUIET, resume=False):
    log = MetricsLog(folder, config, resume)
    for row in rows:
        log.write(row)
    log.close()
    return folder / FILE_NAME


def test_round_trip(tmp_path):
    rows = [make_row(8, note="start", **{"loss/total": 0.1}), make_row(9, "episode", length=7, **{"return": -3.5})]
    assert read_metrics(write_rows(tmp_path / "new" / "run", rows)) == rows


def test_every_row_is_on_disk_when_write_returns(tmp_path):
    log = MetricsLog(tmp_path, QUIET)
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
    log = MetricsLog(tmp_path, QUIET)
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
    with pytest.raises(ConfigError, match="line 2 "):
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
        with pytest.raises(ConfigError, match="line 2 is damaged: ") as refused:
            reader()
        assert problem in str(refused.value)


def test_lists_within_lists_are_no_row(tmp_path):
    path = write_rows(tmp_path, [make_row(1), make_row(2)])
    path.write_bytes(b"[" * 100_000 + b"\n" + path.read_bytes())
    with pytest.raises(ConfigError, match="line 1 is damaged: it is not JSON"):
        read_metrics(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics\.jsonl cannot be read"):
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
    log = MetricsLog(tmp_path, QUIET)
    log.write(make_row(1))
    assert log.rows == 1
    log.close()
    log = MetricsLog(tmp_path, QUIET, resume=True)
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
    monkeypatch.setattr(metrics.os, "fsync", lambda file: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        truncate(tmp_path, frames=1)
    assert path.read_bytes() == before


def test_truncate_and_resume_without_rows(tmp_path):
    truncate(tmp_path, frames=1)
    assert not list(tmp_path.iterdir())
    assert read_metrics(write_rows(tmp_path, [make_row(1)], resume=True)) == [make_row(1)]


def test_a_new_run_never_writes_into_an_old_one(tmp_path):
    path = write_rows(tmp_path, [make_row(1)])
    with pytest.raises(ConfigError, match="--resume"):
        MetricsLog(tmp_path, QUIET)
    assert len(read_metrics(path)) == 1


def read_events(folder):
    """(step, {tag: value}, is a session start) of every TensorBoard event, in the order written."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for path in sorted(folder.glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):  # u64 length, u32 checksum, the event, u32 checksum
            size = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            values = {value.tag: value.simple_value for value in event.summary.value}
            yield event.step, values, event.session_log.status == SessionLog.START


def test_tensorboard_holds_the_scalars_over_frames(tmp_path):
    config = Config()
    write_rows(tmp_path, [make_row(40, note="text", **{"loss/total": np.float32(1.5)})], config)
    scalars = [(step, values) for step, values, _ in read_events(tmp_path / "tensorboard") if values]
    assert scalars == [(40, {"train/loss/total": 1.5})]


def test_tensorboard_forgets_what_is_written_again(tmp_path):
    config = Config()
    write_rows(tmp_path, [make_row(frames, x=1.0) for frames in (10, 20, 30)], config)
    truncate(tmp_path, frames=20)
    MetricsLog(tmp_path, config, resume=True).close()
    assert [step for step, _, start in read_events(tmp_path / "tensorboard") if start] == [21]


def test_missing_wandb_is_explained_and_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="pip install wandb"):
        MetricsLog(tmp_path / "run", Config(train=TrainConfig(wandb=True)))
    assert not (tmp_path / "run").exists()


def test_wandb_gets_the_same_numbers(tmp_path, monkeypatch):
    logged, started = [], {}
    run = types.SimpleNamespace(define_metric=lambda *_, **__: None, log=logged.append, finish=lambda: logged.append("end"))
    fake = types.SimpleNamespace(init=lambda **options: started.update(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = Config(train=TrainConfig(tensorboard=False, wandb=True))
    write_rows(tmp_path / "task" / "preset-0", [make_row(8, "eval", return_mean=2.0)], config)
    counters = {"frames": 8, "decisions": 8, "updates": 4, "wall_seconds": 1.0}
    assert logged == [{"eval/return_mean": 2.0, **counters}, "end"]
    assert (started["id"], started["resume"]) == ("task-preset-0", "allow")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_when_piped(monkeypatch):
    clock = iter([100.0, 110.0, 130.0])
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    stream = io.StringIO()
    progress = Progress(10_000, initial=2_000, stream=stream)
    progress.update(3_000, 500, 31.25, [[]], {})
    progress.print("saved")
    progress.update(5_000, 1_500, 31.25, [[1000.0, *range(10)]], {"loss/total": 12.345, "loss/dyn": 1.0})
    progress.close()
    assert stream.getvalue().splitlines() == [
        " 30.0% frames 3,000/10,000 | ETA 0:01:10 | return - | updates 500 (31.2/s)",
        "saved",
        " 50.0% frames 5,000/10,000 | ETA 0:00:50 | return 4.5 | updates 1,500 (31.2/s) | loss total 12.3, dyn 1",
    ]


def test_lines_stay_short_and_the_end_is_the_end():
    stream = io.StringIO()
    losses = {f"loss/{name}": -1.2345e-10 for name in ("total", "reward", "continue", "dyn", "rep", "policy", "value")}
    Progress(10**9, stream=stream).update(10**9 + 3, 10**9, 1e-9, [[-1.23456e-9]], losses)
    line = stream.getvalue().rstrip("\n")
    assert "\n" not in line
    assert len(line) <= 140
    assert line.startswith("100.0%")
    assert "ETA 0:00:00" in line
    assert "total -1.23e-10" in line


def test_a_standstill_has_no_eta():
    stream = io.StringIO()
    Progress(10, initial=5, stream=stream).update(5, 0, 0.0, [[]], {})
    assert "ETA -" in stream.getvalue()


def test_bar_in_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    stream = Terminal()
    progress = Progress(100, stream=stream)
    progress.update(50, 20, 5.0, [[3.0]], {"loss/total": 2.0})
    progress.print("saved")
    progress.update(104, 50, 5.0, [[3.0]], {"loss/total": 2.0})
    progress.close()
    output = stream.getvalue()
    assert " 50.0%|" in output
    assert "100.0%|" in output
    assert "frames 50/100" in output
    assert "saved\n" in output


def test_the_host_side_loads_no_jax():
    code = "import sys, dreamer_jax.runs.metrics, dreamer_jax.runs.curves; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


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


def test_running_mean_looks_back_only():
    values = np.array([4.0, 2.0, np.nan, 6.0, 10.0])
    np.testing.assert_allclose(curves.running_mean(values, 3), [4, 3, 3, 4, 8])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (63, 81), (400, 600)])
def test_video_reads_back(tmp_path, caplog, height, width):
    frames = [np.full((height, width, 3), 20 * index, np.uint8) for index in range(12)]
    curves.write_video(frames, tmp_path / "episode.mp4", fps=25)
    back = iio.imread(tmp_path / "episode.mp4", plugin="pyav")
    assert iio.immeta(tmp_path / "episode.mp4", plugin="pyav")["fps"] == 25
    assert len(back) == 12
    assert back[0].shape == (height + height % 2, width + width % 2, 3)
    for index, frame in enumerate(back):
        assert abs(frame.mean() - 20 * index) < 5
    assert not caplog.records


@pytest.mark.parametrize(
    "frames", [[], [np.zeros((4, 4, 3))], [np.zeros((4, 4), np.uint8)], [np.zeros((n, 4, 3), np.uint8) for n in (4, 6)]]
)
def test_video_refuses_what_is_no_picture(tmp_path, frames):
    with pytest.raises(ValueError, match="frame"):
        curves.write_video(frames, tmp_path / "episode.mp4", fps=25)
