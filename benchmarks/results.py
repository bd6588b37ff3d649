"""The form of every benchmark result: rows with a unit, a range, a device and the command that made them.

``low`` and ``high`` are the smallest and the largest of the ``n`` measurements whose median is ``value``,
unless the metric says otherwise; ``baseline`` says in words what the value is compared with or held against.
"""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One measured figure."""

    metric: str
    value: float
    unit: str
    low: float
    high: float
    n: int
    baseline: str
    device: str
    command: str


@dataclass(frozen=True)
class Sheet:
    """Makes the rows of one module, which share device and command."""

    command: str
    device: str

    def median(self, metric: str, values: Sequence[float], *, unit: str, baseline: str) -> Row:
        """Return a row of the median with its range."""
        return Row(
            metric=metric,
            value=_rounded(statistics.median(values)),
            unit=unit,
            low=_rounded(min(values)),
            high=_rounded(max(values)),
            n=len(values),
            baseline=baseline,
            device=self.device,
            command=self.command,
        )

    def quantile(
        self, metric: str, values: Sequence[float], *, percent: int, unit: str, baseline: str
    ) -> Row:
        """Return a row of a percentile with the range of all values."""
        cut = statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
        return replace(self.median(metric, values, unit=unit, baseline=baseline), value=_rounded(cut))

    def one(self, metric: str, value: float, *, unit: str, baseline: str) -> Row:
        """Return a row of a single measurement."""
        return self.median(metric, [value], unit=unit, baseline=baseline)


def sheet(command: str, *, threads: int) -> Sheet:
    """Return the sheet of a module that was run by ``command`` with so many threads of torch."""
    return Sheet(command=command, device=device(threads=threads))


def device(*, threads: int) -> str:
    """Return the machine in words: CPU model, cores, threads, torch, Python."""
    return (
        f"{_cpu_name()}, {os.cpu_count()} cores, {threads} thread{'s' if threads > 1 else ''}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def write_rows(name: str, rows: Sequence[Row]) -> Path:
    """Write ``benchmarks/results/NAME.json`` and return its path."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2, ensure_ascii=False) + "\n")
    return path


def read_rows(path: Path) -> list[Row]:
    """Read what ``write_rows`` wrote."""
    return [Row(**row) for row in json.loads(path.read_text())]


def print_rows(rows: Sequence[Row], *, title: str) -> None:
    """Print the rows as a table."""
    table = Table("metric", "median", "low", "high", "n", "unit", "against", title=title)
    for row in rows:
        figures = (f"{figure:g}" for figure in (row.value, row.low, row.high))
        table.add_row(row.metric, *figures, str(row.n), row.unit, row.baseline)
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    console.print(table)
    console.print(rows[0].device)


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
