"""Text and tables as HTML, for report.html."""

import html
from collections.abc import Iterable, Sequence

from dcgan_jax.config import make_printable


def render_table(rows: Iterable[Sequence], head: Sequence = ()) -> str:
    """Renders an HTML table; all cells are escaped."""
    top = f"<tr>{_render_cells('th', head)}</tr>" if head else ""
    below = "".join(f"<tr>{_render_cells('td', row)}</tr>" for row in rows)
    return f"<div class=wide><table>{top}{below}</table></div>"


def _render_cells(tag: str, row: Sequence) -> str:
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)


def escape(value: object, most: int = 300) -> str:
    """The value as HTML text on one line, cut to `most` characters: it may quote a stranger's file."""
    value = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else value
    return html.escape(make_printable(str(value), most))
