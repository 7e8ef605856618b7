"""Parts of an HTML page: tables and paragraphs whose text is escaped unless it is marked as HTML. Imports no JAX."""

from collections.abc import Collection, Sequence
from html import escape
from typing import Any

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; color: #1c1f23; background: #fff;
  max-width: 1360px; margin: 0 auto; padding: 1.2rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid #d5d9de; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
p, ul { max-width: 62rem; margin: .4rem 0; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 1rem; }
figure { margin: 0; break-inside: avoid; max-width: 760px; }
figure img { width: 100%; height: auto; }
figcaption { font-size: .85rem; color: #4a5058; }
.table { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; font-size: .77rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .42rem; text-align: right; vertical-align: top; border-bottom: 1px solid #e3e6ea; }
th { font-weight: 600; vertical-align: bottom; background: #f5f6f8; }
th.group { text-align: center; border-left: 2px solid #b9c0c8; }
th.edge, td.edge { border-left: 2px solid #b9c0c8; }
th.text, td.text, th.path, td.path { text-align: left; }
td { white-space: nowrap; }
td.text, td.path { white-space: normal; }
td small { display: block; color: #5b626b; }
td small.seeds { white-space: normal; min-width: 7rem; }
td.path { overflow-wrap: anywhere; min-width: 12rem; }
.state { font-weight: 600; color: #a33b00; }
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { padding: 0; max-width: none; font-size: 11px; }
  .curves { grid-template-columns: 1fr 1fr; }
  .table { overflow: visible; }
  table { font-size: 9px; }
  th, td { padding: .2rem .35rem; }
  tr { break-inside: avoid; }
}
"""


class Markup(str):
    """Text that is HTML already: every part of it from outside has been escaped."""

    __slots__ = ()


NOTHING = Markup("&ndash;")  # in a cell without a value


def cell(text: Any) -> Markup:
    """The text with its special characters escaped."""
    return text if isinstance(text, Markup) else Markup(escape(str(text)))


def name_cell(text: Any) -> Markup:
    """The text escaped, with leave to break the line after each "_"."""
    return Markup(cell(text).replace("_", "_<wbr>"))


def number(value: float | None) -> str:
    """A value with one decimal; a dash where there is none."""
    return NOTHING if value is None else f"{value:.1f}"


def note(text: Any) -> Markup:
    """A paragraph."""
    return Markup(f"<p>{cell(text)}</p>\n")


def table(
    names: Sequence[str],
    rows: Sequence[Sequence[Any]],
    text: Collection[int] = (),
    edges: Collection[int] = (),
    paths: Collection[int] = (),
    above: str = "",
) -> Markup:
    """A table that scrolls sideways where it is too wide.

    Args:
      names: heads of the columns.
      rows: cells; those that are not Markup are escaped.
      text: columns that hold text; the others hold numbers.
      edges: columns with a line on their left.
      paths: columns of text that may break anywhere.
      above: a row of HTML above the heads.
    """
    kinds = [
        " ".join(kind for kind, on in (("text", i in text), ("path", i in paths), ("edge", i in edges)) if on)
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


def page(title: str, body: str) -> str:
    """A whole page around `body`, which is HTML. It loads nothing."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{cell(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
