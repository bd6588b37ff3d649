"""Make ``benchmarks/results/README.md`` from the JSON files beside it; nothing in it is written by hand."""

import ast
from collections.abc import Sequence
from pathlib import Path

from benchmarks.results import FOLDER, Row, read_rows

HEAD = """# Benchmark results

Made by `python -m benchmarks.render` from the JSON files in this folder. Value is the median of n
measurements, low and high the smallest and the largest of them. In a wide table a cell is the median, with
the smallest and the largest behind it where they differ.
"""
COLUMNS = ("metric", "value", "low", "high", "n", "unit", "baseline")
# Tables of many figures of the same things: a line a thing, a column a figure.
WIDE = ("gradient", "generation")


def main() -> None:
    """Write the file."""
    parts = [HEAD, *(_part(path) for path in sorted(FOLDER.glob("*.json")))]
    path = FOLDER / "README.md"
    path.write_text("\n".join(parts))
    print(f"wrote {path}")


def _part(path: Path) -> str:
    rows = read_rows(path)
    origins = dict.fromkeys((row.command, row.device) for row in rows)
    cells = wide(rows) if path.stem.startswith(WIDE) else [COLUMNS, *(_cells(row) for row in rows)]
    lines = [
        f"## {path.stem}",
        "",
        _claim(path.stem),
        "",
        _line(cells[0]),
        _line(tuple("---" for _ in cells[0])),
        *(_line(each) for each in cells[1:]),
        "",
        *(f"`{command}` on {device}" for command, device in origins),
        "",
    ]
    return "\n".join(lines)


def _claim(name: str) -> str:
    """Return what a module says it measures, without running it; ``chaos-rerun`` is of ``chaos/rerun``."""
    place = Path(__file__).parent / name.replace("-", "/")
    sources = (place.with_suffix(".py"), place / "__main__.py", place.parent / "__main__.py")
    found = next((source for source in sources if source.exists()), None)
    docstring = ast.get_docstring(ast.parse(found.read_text())) if found else None
    return docstring or ""


def wide(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Return head and lines of a table whose metrics are called ``thing: column``.

    The baseline of a thing's first column is its note.
    """
    parted = [(*row.metric.rsplit(": ", 1), row) for row in rows]
    columns = list(dict.fromkeys(column for _, column, _ in parted))
    things = list(dict.fromkeys(thing for thing, _, _ in parted))
    found = {(thing, column): row for thing, column, row in parted}
    units = {column: row.unit for _, column, row in parted}
    head = ("", "n", *(f"{column}, {units[column]}" for column in columns), "note")
    lines = []
    for thing in things:
        own = [found.get((thing, column)) for column in columns]
        num = max(row.n for row in own if row is not None)
        note = "" if own[0] is None else own[0].baseline
        lines.append((thing, str(num), *("" if row is None else _range(row) for row in own), note))
    return [head, *lines]


def _range(row: Row) -> str:
    middle, low, high = (f"{figure:.3g}" for figure in (row.value, row.low, row.high))
    return middle if low == high else f"{middle} ({low} to {high})"


def _cells(row: Row) -> tuple[str, ...]:
    figures = (f"{figure:g}" for figure in (row.value, row.low, row.high))
    return (row.metric, *figures, str(row.n), row.unit, row.baseline)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
