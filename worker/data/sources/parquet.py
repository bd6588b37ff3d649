"""Reads a Parquet file, or a folder of them such as a Hugging Face dataset on disk.

Features are one column of equal lists (`features` or `image`) or all remaining numeric columns in schema
order; a column that goes by the name of a role, or a stored pandas index, is never a feature unless named.
Files of a folder follow each other by name; rows count over all of them. Without a split column, Hugging
Face names (`test-00000-of-00001.parquet`, `test/0000.parquet`) tell the split.
Never decodes encoded images and never fills a null.
"""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from worker.data.sources.arrow import is_nested, is_numeric, nested_column, plain_column, stacked_columns
from worker.data.sources.columns import IS_HELD_OUT, RawColumns, assemble
from worker.data.sources.files import existing, foreign_errors, regular_file
from worker.data.sources.options import Role, SourceOptions, locate_columns
from worker.data.sources.table import SourceRefused, SourceTable

LIST_NAMES = ("features", "image")
PANDAS_INDEX = re.compile(r"__index_level_\d+__")
SPLIT_STEM = re.compile(rf"({'|'.join(IS_HELD_OUT)})(-\d+-of-\d+(-\w+)?)?")
# UnicodeDecodeError: pyarrow decodes the column names of a damaged footer without a check.
FOREIGN = (pa.ArrowException, UnicodeDecodeError)


def read_parquet(source: str, *, options: SourceOptions) -> SourceTable:
    """Lists keep their dtype; stacked columns are uint8, float32 or float64."""
    root = existing(Path(source))
    files = parquet_files(root) if root.is_dir() else [regular_file(root)]
    if not files:
        raise SourceRefused(f"{root}: holds no .parquet file")
    schema = _common_schema(files)
    found = locate_columns(options, available=schema.names, place=source)
    features = _feature_columns(schema, options=options, roles=found, place=source)
    tables = [_read(file, columns=sorted({*features, *found.values()})) for file in files]
    split = _split_of_names(files, root=root, num_records=[table.num_rows for table in tables])
    table = pa.concat_tables(tables)
    if table.num_rows == 0:
        raise SourceRefused(f"{source}: holds no records")
    raw = _raw_columns(table, features=features, roles=found, split=split, place=source)
    return assemble(raw, place=source, records_per_subject=options.records_per_subject)


def parquet_files(folder: Path) -> list[Path]:
    """The folder's Parquet files by name; those under a dot or underscore are some tool's bookkeeping."""
    with foreign_errors(folder):
        paths = sorted(path.relative_to(folder) for path in folder.rglob("*.parquet") if path.is_file())
    return [folder / path for path in paths if not any(part[0] in "._" for part in path.parts)]


def _common_schema(files: list[Path]) -> pa.Schema:
    schemas = [_schema(file) for file in files]
    for file, schema in zip(files, schemas, strict=True):
        if not schema.equals(schemas[0]):
            raise SourceRefused(f"{file}: its columns are not those of {files[0].name}")
    names = schemas[0].names
    for name in names:
        if names.count(name) > 1:
            raise SourceRefused(f"{files[0]}: has two columns named {name!r}")
    return schemas[0]


def _schema(file: Path) -> pa.Schema:
    with foreign_errors(file, errors=FOREIGN), pa.OSFile(str(file)) as handle:
        return pq.read_schema(handle)


def _read(file: Path, *, columns: list[str]) -> pa.Table:
    with foreign_errors(file, errors=FOREIGN), pa.OSFile(str(file)) as handle:
        parquet = pq.ParquetFile(handle, page_checksum_verification=True)
        # Metadata differs between files of one dataset and says nothing that is needed here.
        return parquet.read(columns=columns).select(columns).replace_schema_metadata(None)


def _feature_columns(
    schema: pa.Schema, *, options: SourceOptions, roles: dict[Role, str], place: str
) -> list[str]:
    if options.features_columns is not None:
        return _named_features(schema, names=options.features_columns, place=place)
    for name in LIST_NAMES:
        if name in schema.names and not is_numeric(schema.field(name).type):
            return _named_features(schema, names=(name,), place=place)
    reserved = {*Role, *roles.values()}
    remaining = [name for name in schema.names if name not in reserved and not PANDAS_INDEX.fullmatch(name)]
    numeric = [name for name in remaining if is_numeric(schema.field(name).type)]
    if not numeric:
        raise SourceRefused(f"{place}: no column of features; beside the roles there is: {remaining}")
    return numeric


def _named_features(schema: pa.Schema, *, names: tuple[str, ...], place: str) -> list[str]:
    for name in names:
        if name not in schema.names:
            raise SourceRefused(f"{place}: no column {name!r} for features; there is: {schema.names}")
        arrow_type = schema.field(name).type
        if is_nested(arrow_type) and len(names) > 1:
            raise SourceRefused(f"{place}: column {name!r} holds lists, so it must be the only one")
        if not is_nested(arrow_type) and not is_numeric(arrow_type):
            raise SourceRefused(f"{place}: column {name!r} holds {arrow_type}, not numbers or lists of them")
    return list(names)


def _raw_columns(
    table: pa.Table, *, features: list[str], roles: dict[Role, str], split: list[str] | None, place: str
) -> RawColumns:
    columns = {role: plain_column(table.column(name), name=name, place=place) for role, name in roles.items()}
    if is_nested(table.schema.field(features[0]).type):
        values = nested_column(table.column(features[0]), name=features[0], place=place)
    else:
        values = stacked_columns(table, names=features, place=place)
    return RawColumns(
        features=values,
        labels=columns[Role.LABEL],
        record_ids=columns.get(Role.RECORD),
        subject_ids=columns.get(Role.SUBJECT),
        split=columns.get(Role.SPLIT, split),
        spread=columns.get(Role.SPREAD),
        likelihood=columns.get(Role.LIKELIHOOD),
        feature_names=() if is_nested(table.schema.field(features[0]).type) else tuple(features),
    )


def _split_of_names(files: list[Path], *, root: Path, num_records: list[int]) -> list[str] | None:
    """One split word a record, or None. Test files read as training data would ruin every evaluation."""
    words = [_split_word(file.relative_to(root)) for file in files]
    if not any(word and IS_HELD_OUT[word] for word in words):
        return None
    for file, word in zip(files, words, strict=True):
        if word is None:
            raise SourceRefused(f"{file}: its name tells no split, while those of other files do")
    return [word for word, count in zip(words, num_records, strict=True) if word for _ in range(count)]


def _split_word(file: Path) -> str | None:
    """`file` relative to the folder; a single file is relative to itself and has no parts."""
    for name in (file.stem, *reversed(file.parent.parts)):
        match = SPLIT_STEM.fullmatch(name)
        if match is not None:
            return match[1]
    return None
