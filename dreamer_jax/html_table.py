"""HTML tables and paragraphs whose text is escaped unless it is marked as HTML. Imports no JAX."""

from collections.abc import Collection, Sequence
from html import escape
from typing import Any


class Markup(str):
    """Text that is HTML already: every part of it from outside has been escaped."""

    __slots__ = ()


def cell(text: Any) -> Markup:
    """The text with its special characters escaped."""
    return text if isinstance(text, Markup) else Markup(escape(str(text)))


def note(text: Any) -> Markup:
    """A paragraph."""
    return Markup(f"<p>{cell(text)}</p>\n")


def table(
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    text: int = 0,
    edges: Collection[int] = (),
    paths: Collection[int] = (),
    above: str = "",
) -> Markup:
    """A table that scrolls sideways where it is too wide.

    Args:
      names: heads of the columns.
      rows: cells; those that are not Markup are escaped.
      text: so many columns on the left hold text, the others numbers.
      edges: columns with a line on their left.
      paths: further columns of text, which may break anywhere.
      above: a row of HTML above the heads.
    """
    kinds = [
        " ".join(kind for kind, on in (("text", i < text), ("path", i in paths), ("edge", i in edges)) if on)
        for i in range(len(names))
    ]
    opening = [f' class="{kind}"' if kind else "" for kind in kinds]
    head = "".join(f"<th{kind}>{cell(name)}</th>" for kind, name in zip(opening, names))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{cell(value)}</td>" for kind, value in zip(opening, row)) + "</tr>" for row in rows
    )
    return Markup(
        f'<div class="table"><table>\n<thead>{above}<tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>\n'
    )
