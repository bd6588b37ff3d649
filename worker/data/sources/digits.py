"""Reads the handwritten digits that ship inside scikit-learn: 1 797 images of 8 x 8, values 0 to 16.

Promises a dataset without a download, for demos and tests. Never needed by anything else, so a missing
scikit-learn is a refusal and not an import error.
"""

import numpy as np

from worker.data.sources.columns import RawColumns, assemble
from worker.data.sources.options import SourceOptions, refuse_columns
from worker.data.sources.table import SourceRefused, SourceTable

NAME = "digits"


def read_digits(source: str, *, options: SourceOptions) -> SourceTable:
    """Features uint8 (1797, 1, 8, 8); record ids are row numbers."""
    if source != NAME:
        raise SourceRefused(f"{source}: format digits reads no file, its source is {NAME!r}")
    refuse_columns(options, place=source)
    images, labels = _load()
    features = images.astype(np.uint8)[:, np.newaxis]  # stored as whole float64
    raw = RawColumns(features=features, labels=labels)
    return assemble(raw, place=source, records_per_subject=options.records_per_subject)


def _load() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SourceRefused(f"{NAME}: scikit-learn is not installed") from error
    bunch = load_digits()
    return bunch.images, bunch.target
