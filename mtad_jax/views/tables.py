"""Tables of a few lines, as text and as HTML, from the same cells."""

from collections.abc import Iterable, Sequence

from mtad_jax.views.escaping import safe

Cells = Sequence[str]

_NAME = "text-align: left"
_FIGURE = "text-align: right; font-variant-numeric: tabular-nums"


def table_html(head: Cells, rows: Iterable[Cells]) -> str:
    """Return a table; the first column is a name, the others are figures. Cells are escaped."""
    lines = [_line("th", head), *(_line("td", row) for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def table_text(head: Cells, rows: Iterable[Cells]) -> str:
    """Return the same as lines of text in columns."""
    rows = [head, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _line(tag: str, cells: Cells) -> str:
    return "<tr>{}</tr>".format(
        "".join(
            f'<{tag} style="{_FIGURE if i else _NAME}">{safe(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        )
    )
