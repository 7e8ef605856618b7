"""What the terminal shows of a run."""

import io

from dreamer_jax.training import progress as module
from dreamer_jax.training.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_when_piped(monkeypatch):
    clock = iter([100.0, 110.0, 130.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock))
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
