"""What the terminal shows of a run."""

import io
from pathlib import Path
from types import SimpleNamespace

from dreamer_jax.core.config import Config, TrainConfig
from dreamer_jax.core.section import Section
from dreamer_jax.runs.counters import Counters
from dreamer_jax.training.callbacks import terminal as module
from dreamer_jax.training.callbacks.base import Report
from dreamer_jax.training.callbacks.terminal import Terminal


class Stream(io.StringIO):
    def isatty(self):
        return True


def started(total: int, initial: int = 0) -> Terminal:
    """The terminal of a run of `total` frames that goes on from `initial`."""
    run = SimpleNamespace(config=Config(train=TrainConfig(frames=total)), counters=Counters(frames=initial), folder=Path())
    terminal = Terminal(Section())
    terminal.start([run])
    return terminal


def test_plain_lines_when_piped(monkeypatch, capsys):
    clock = iter([100.0, 110.0, 130.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
    terminal = started(10_000, initial=2_000)
    terminal.progress(Report(3_000, 10_000, 500, 31.25, [[]], {}))
    losses = {"loss/total": 12.345, "loss/dyn": 1.0}
    terminal.progress(Report(5_000, 10_000, 1_500, 31.25, [[1000.0, *range(10)]], losses))
    terminal.end([], "finished")
    assert capsys.readouterr().out.splitlines() == [
        " 30.0% frames 3,000/10,000 | ETA 0:01:10 | return - | updates 500 (31.2/s)",
        " 50.0% frames 5,000/10,000 | ETA 0:00:50 | return 4.5 | updates 1,500 (31.2/s) | loss total 12.3, dyn 1",
    ]


def test_lines_stay_short_and_the_end_is_the_end(capsys):
    losses = {f"loss/{name}": -1.2345e-10 for name in ("total", "reward", "continue", "dyn", "rep", "policy", "value")}
    started(10**9).progress(Report(10**9 + 3, 10**9, 10**9, 1e-9, [[-1.23456e-9]], losses))
    line = capsys.readouterr().out.rstrip("\n")
    assert "\n" not in line
    assert len(line) <= 140
    assert line.startswith("100.0%")
    assert "ETA 0:00:00" in line
    assert "total -1.23e-10" in line


def test_a_standstill_has_no_eta(capsys):
    started(10, initial=5).progress(Report(5, 10, 0, 0.0, [[]], {}))
    assert "ETA -" in capsys.readouterr().out


def test_mean_and_interval_of_several_seeds(capsys):
    """Means 1, 2, 3: deviation 1, Student's t of 2 degrees of freedom 4.303, so 4.303 / sqrt(3) = 2.48."""
    started(100).progress(Report(50, 100, 1, 1.0, [[1.0], [0.0, 4.0], [3.0]], {}))
    assert "return 2 ± 2.48 (3 seeds)" in capsys.readouterr().out


def put_in_front(monkeypatch) -> Stream:
    """A terminal in the place of standard output, which pytest sets anew when a test begins."""
    stream = Stream()
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdout", stream)
    return stream


def test_bar_in_a_terminal(monkeypatch):
    """It is left as it stands with the last report; a line of somebody else's is written above it."""
    screen = put_in_front(monkeypatch)
    terminal = started(100)
    terminal.progress(Report(50, 100, 20, 5.0, [[3.0]], {"loss/total": 2.0}))
    module.tqdm.write("saved")
    terminal.progress(Report(104, 100, 50, 5.0, [[3.0]], {"loss/total": 2.0}, done=True))
    shown = screen.getvalue()
    assert " 50.0%|" in shown
    assert "100.0%|" in shown
    assert "frames 50/100" in shown
    assert "saved\n" in shown
    assert shown.endswith("\n")
    terminal.end([], "finished")
    assert screen.getvalue() == shown


def test_a_run_that_is_stopped_leaves_its_bar(monkeypatch):
    screen = put_in_front(monkeypatch)
    terminal = started(100)
    terminal.progress(Report(50, 100, 20, 5.0, [[3.0]], {}))
    assert not screen.getvalue().endswith("\n")
    terminal.end([], "stopped")
    assert screen.getvalue().endswith("\n")


def test_a_notebook_has_a_bar_too(monkeypatch, capsys):
    """Its standard output is no terminal; `tqdm.auto` gives a class of `tqdm.notebook` there."""
    notebook = type("tqdm_notebook", (module.tqdm,), {"__module__": "tqdm.notebook"})
    monkeypatch.setattr(module, "tqdm", notebook)
    terminal = started(100)
    terminal.progress(Report(50, 100, 20, 5.0, [[3.0]], {}))
    terminal.end([], "stopped")
    assert "\r 50.0%|" in capsys.readouterr().out
