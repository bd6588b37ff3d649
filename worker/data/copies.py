"""The files of a copy that an audit makes for the oracle, which reads nothing else.

Shape suffixes: N records.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

RECIPE_FILE, PLAN_KEY_FILE, LAYOUT_FILE = "recipe.json", "plan.key", "layout.json"
RECORDS_FILE, INDEX_FILE = "records.bin", "index.npz"


@dataclass(frozen=True)
class OracleIndex:
    """Who the copied records are: refs (N, 32), spreads and content digests, and which are poisoned.

    ``likelihood_N`` is NaN where none is known.
    """

    record_ref_N: npt.NDArray[np.uint8]
    subject_ref_N: npt.NDArray[np.uint8]
    content_digest_N: npt.NDArray[np.uint8]
    spread_N: npt.NDArray[np.int64]
    likelihood_N: npt.NDArray[np.float64]
    is_poisoned_N: npt.NDArray[np.bool_]

    def save(self, path: Path) -> None:
        """Write the index."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> "OracleIndex":
        """Read what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as arrays:
            return cls(**{name: arrays[name] for name in cls.__dataclass_fields__})
