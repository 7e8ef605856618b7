"""Words and numbers for people: values, errors, names and times on one line, and Markdown tables. Imports no JAX."""

import difflib
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def shown(value: Any) -> str:
    """A value as it was written, in 80 characters at most and on one line, however long or deep it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists within lists
        return f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def brief(error: BaseException) -> str:
    """What an error says, in 300 characters at most and on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def one_line(error: BaseException, within: str | None = None) -> str:
    """ "KeyError: 'pole' (my_env.py:42)": what was raised and where, for an error in somebody else's code.

    The place matters: the trace itself is lost when the error comes out of another process.

    Args:
      within: the file whose last line on the way is the place; without it, or where it is not on the way, the innermost one.
    """
    text = " ".join(str(error).split())
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is the caller's own
    frames = [frame for frame in frames if not frame.filename.startswith("<")]  # of the import system
    frames = [frame for frame in frames if frame.filename == within] or frames
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"


def nearest(name: str, known: Iterable[str], count: int | None = None, least: float = 0.5) -> list[str]:
    """Known names that are most like `name`, the nearest first: all of them, or up to `count` whose likeness is `least` of 1.

    Upper and lower case count as the same.
    """
    by_lower = {other.lower(): other for other in known}
    count, cutoff = (len(by_lower), 0.0) if count is None else (count, least)
    return [by_lower[low] for low in difflib.get_close_matches(name.lower(), by_lower, max(1, count), cutoff)]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?" for the nearest of the known names, "" where none is near."""
    close = nearest(name, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def clock(seconds: float) -> str:
    """A time [seconds] as h:mm:ss."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def plus_minus(value: float | None, deviation: float | None = None, form: str = ".1f", deviation_form: str = "") -> str:
    """ "12.3 ± 4.5", or "12.3" where no deviation is known, or "-" where there is no value.

    `form` is the format code of both numbers; `deviation_form`, where it is given, that of the deviation.
    """
    if value is None:
        return "-"
    return format(value, form) if deviation is None else f"{value:{form}} ± {deviation:{deviation_form or form}}"


def safe_name(text: str) -> str:
    """`text` as the name of a file or folder: letters, digits, "-" and "_" stay, everything else becomes "_".

    At most 150 characters; "_" for an empty text.
    """
    return "".join(letter if letter.isascii() and (letter.isalnum() or letter in "-_") else "_" for letter in text)[:150] or "_"


def markdown_table(header: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table with one line for the header and one for each row."""
    lines = (f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows))
    first = next(lines)
    return "\n".join([first, "|" + "---|" * len(header), *lines])


def aligned_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells in columns for a terminal, without trailing blanks."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
