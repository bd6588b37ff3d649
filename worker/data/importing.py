"""Import a source: hash the ids, honour suppressions, write the data file, commit the dataset.

Promises: bad input stores nothing; a suppressed subject or record is skipped and counted; raw ids are
never written anywhere.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.db.ids import new_id
from app.db.session import Sessions
from app.domain.terms import DatasetId, TenantName
from app.keyring import Keyring
from app.services.import_dataset import (
    NewDataset,
    Suppressed,
    SuppressedMeanwhile,
    add_dataset,
    has_dataset,
    refuse_taken_name,
    suppressed,
)
from worker.data.abandoned import importing_folder, remove_abandoned
from worker.data.data_files import Layout, write_data_file
from worker.data.sources import SourceRefused, SourceTable

SALT_BYTES = 16


@dataclass(frozen=True)
class ImportOrder:
    """How to import. ``held_out_share`` is a share of subjects, used when the source has no split column."""

    name: str
    subject_type: str = "person"
    held_out_share: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.held_out_share < 1.0:
            raise SourceRefused(f"the held-out share must lie in [0, 1), not {self.held_out_share}")


@dataclass(frozen=True)
class Imported:
    """What an import stored and skipped."""

    dataset_id: str
    num_records: int
    num_subjects: int
    num_held_out: int
    num_suppressed: int


@dataclass(frozen=True)
class _Hashed:
    """Keyed hashes in source order, one list for each record: the primary's first."""

    subjects: list[tuple[bytes, ...]]
    records: list[tuple[bytes, ...]]


def import_source(
    sessions: Sessions,
    source: SourceTable,
    order: ImportOrder,
    *,
    tenant: TenantName,
    keyring: Keyring,
    data_folder: Path,
) -> Imported:
    """Store a source as a dataset.

    Raises:
        SourceRefused: nothing is left to store, or an id cannot be hashed.
        NameTaken: a dataset of this name stands.
    """
    refuse_taken_name(sessions, order.name, tenant=tenant)
    remove_abandoned(data_folder, is_known=partial(has_dataset, sessions))
    hashed = _hash_ids(source, order, keyring=keyring)
    while True:
        honoured = suppressed(sessions, tenant=tenant)
        try:
            return _store(
                sessions,
                source,
                order,
                hashed=hashed,
                honoured=honoured,
                tenant=tenant,
                keyring=keyring,
                data_folder=data_folder,
            )
        except SuppressedMeanwhile:
            continue


def _hash_ids(source: SourceTable, order: ImportOrder, *, keyring: Keyring) -> _Hashed:
    cache: dict[str, tuple[bytes, ...]] = {}
    for index, subject_id in enumerate(source.subject_ids):
        if subject_id not in cache:
            try:
                cache[subject_id] = keyring.subject_refs(subject_id, subject_type=order.subject_type)
            except ValueError as error:
                raise SourceRefused(f"row {index}: {error}") from error
    records = [keyring.record_refs(record_id, dataset=order.name) for record_id in source.record_ids]
    return _Hashed(subjects=[cache[subject_id] for subject_id in source.subject_ids], records=records)


def _store(
    sessions: Sessions,
    source: SourceTable,
    order: ImportOrder,
    *,
    hashed: _Hashed,
    honoured: Suppressed,
    tenant: TenantName,
    keyring: Keyring,
    data_folder: Path,
) -> Imported:
    chosen = _not_suppressed(source, order, hashed=hashed, honoured=honoured, keyring=keyring)
    if not len(chosen):
        raise SourceRefused("no record is left: every subject of the source is suppressed")
    layout = Layout(
        shape=tuple(source.features.shape[1:]),
        dtype=source.features.dtype.str,
        num_classes=int(source.labels.max()) + 1,
        feature_names=source.feature_names,
    )
    dataset_id = DatasetId(new_id("dat"))
    with importing_folder(data_folder / dataset_id):
        digests = write_data_file(
            data_folder,
            dataset_id,
            layout=layout,
            features=source.features,
            labels=source.labels,
            chosen=chosen,
        )
        records = _rows(source, order, hashed=hashed, chosen=chosen, digests=digests, keyring=keyring)
        new = NewDataset(
            id=dataset_id,
            name=order.name,
            subject_type=order.subject_type,
            num_records=len(records),
            layout=layout.to_json(),
        )
        add_dataset(sessions, new, tenant=tenant, records=records, honoured=honoured)
    return Imported(
        dataset_id=dataset_id,
        num_records=len(records),
        num_subjects=len({row["subject_ref"] for row in records}),
        num_held_out=sum(row["is_held_out"] for row in records),
        num_suppressed=len(source.record_ids) - len(records),
    )


def _not_suppressed(
    source: SourceTable, order: ImportOrder, *, hashed: _Hashed, honoured: Suppressed, keyring: Keyring
) -> npt.NDArray[np.intp]:
    kept = [
        index for index, subjects in enumerate(hashed.subjects) if honoured.subject_refs.isdisjoint(subjects)
    ]
    # Hashing every record once more is saved as long as no single record is suppressed.
    if honoured.record_refs:
        kept = [
            index
            for index in kept
            if honoured.record_refs.isdisjoint(
                keyring.suppression_refs(
                    source.record_ids[index],
                    subject_id=source.subject_ids[index],
                    subject_type=order.subject_type,
                )
            )
        ]
    return np.array(kept, dtype=np.intp)


def _rows(
    source: SourceTable,
    order: ImportOrder,
    *,
    hashed: _Hashed,
    chosen: npt.NDArray[np.intp],
    digests: list[bytes],
    keyring: Keyring,
) -> list[Mapping[str, Any]]:
    salts = secrets.token_bytes(SALT_BYTES * len(chosen))
    held_out: dict[bytes, bool] = {}
    traits: dict[bytes, tuple[int, float | None]] = {}
    rows: list[Mapping[str, Any]] = []
    for row, index in enumerate(chosen.tolist()):
        subject_ref = hashed.subjects[index][0]
        if source.held_out is not None:
            is_held_out = bool(source.held_out[index])
        else:
            # A share of subjects, not of records: one person never stands on both sides.
            is_held_out = held_out.setdefault(
                subject_ref,
                keyring.held_out_fraction(subject_ref, dataset=order.name) < order.held_out_share,
            )
        spread, likelihood = _traits(source, index)
        if traits.setdefault(subject_ref, (spread, likelihood)) != (spread, likelihood):
            # Two spellings of one subject can only be told after normalising.
            raise SourceRefused(
                f"row {index}: its subject has another spread or likelihood in an earlier row"
            )
        rows.append(
            {
                "row": row,
                "record_ref": hashed.records[index][0],
                "subject_ref": subject_ref,
                "salt": salts[row * SALT_BYTES : (row + 1) * SALT_BYTES],
                "content_digest": digests[row],
                "is_held_out": is_held_out,
                "spread": spread,
                "likelihood": likelihood,
            }
        )
    return rows


def _traits(source: SourceTable, index: int) -> tuple[int, float | None]:
    spread = 1 if source.spread is None else int(source.spread[index])
    return spread, None if source.likelihood is None else float(source.likelihood[index])
