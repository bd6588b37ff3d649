"""Make ``benchmarks/results/README.md`` from the JSON files beside it; nothing in it is written by hand."""

import ast
from pathlib import Path

from benchmarks.results import FOLDER, Row, read_rows

HEAD = """# Benchmark results

Made by `python -m benchmarks.render` from the JSON files in this folder. Value is the median of n
measurements, low and high the smallest and the largest of them.
"""
COLUMNS = ("metric", "value", "low", "high", "n", "unit", "baseline")


def main() -> None:
    """Write the file."""
    parts = [HEAD, *(_part(path) for path in sorted(FOLDER.glob("*.json")))]
    path = FOLDER / "README.md"
    path.write_text("\n".join(parts))
    print(f"wrote {path}")


def _part(path: Path) -> str:
    rows = read_rows(path)
    origins = dict.fromkeys((row.command, row.device) for row in rows)
    lines = [
        f"## {path.stem}",
        "",
        _claim(path.stem),
        "",
        _line(COLUMNS),
        _line(tuple("---" for _ in COLUMNS)),
        *(_line(_cells(row)) for row in rows),
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


def _cells(row: Row) -> tuple[str, ...]:
    figures = (f"{figure:g}" for figure in (row.value, row.low, row.high))
    return (row.metric, *figures, str(row.n), row.unit, row.baseline)


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    main()
