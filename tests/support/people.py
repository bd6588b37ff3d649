"""The synthetic subjects of an installation: where their records lie, and every trace that they leave."""

import base64
from dataclasses import dataclass

import numpy as np

from tests.support.service import Home

NUM_SUBJECTS = 599
RECORDS_PER_SUBJECT = 3


@dataclass(frozen=True)
class Subject:
    """A person of a dataset."""

    id: str
    ref: bytes
    dataset_id: str
    rows: tuple[int, ...]
    block: int | None

    def record_bytes(self, home: Home) -> list[bytes]:
        """Return what the data file holds in the places of the records."""
        folder = home.path / "data" / self.dataset_id
        size = int((folder / "row_bytes").read_text())
        data = (folder / "records.bin").read_bytes()
        return [data[row * size : (row + 1) * size] for row in self.rows]

    def is_erased(self, home: Home) -> bool:
        """Whether nothing but zeros is left of the records."""
        return not any(any(record) for record in self.record_bytes(home))


def subjects_of(home: Home, *, model: str = "digits") -> list[Subject]:
    """Return the subjects that the plan of a model places in blocks, and those held out from it."""
    ids = [f"synthetic-{number:06d}" for number in range(NUM_SUBJECTS)]
    named = {home.keyring.subject_refs(name, subject_type="person")[0]: name for name in ids}
    found: dict[bytes, list[tuple[str, int, int | None]]] = {}
    query = (
        "SELECT r.subject_ref, r.dataset_id, r.row, p.block FROM models m "
        "JOIN records r ON r.dataset_id = m.dataset_id "
        "LEFT JOIN placements p ON p.model_id = m.id AND p.row = r.row WHERE m.name = ? ORDER BY r.row"
    )
    for ref, dataset_id, row, block in home.rows(query, model):
        found.setdefault(ref, []).append((dataset_id, row, block))
    return [
        Subject(
            id=named[ref], ref=ref, dataset_id=places[0][0], block=places[0][2],
            rows=tuple(row for _, row, _ in places),
        )
        for ref, places in found.items()
    ]  # fmt: skip


def subject_in(home: Home, *, block: int | None, number: int = 0) -> Subject:
    """Return a subject in this block (None: held out), the same in every copy of an installation."""
    members = [subject for subject in subjects_of(home) if subject.block == block]
    return sorted(members, key=lambda subject: subject.id)[number]


@dataclass(frozen=True)
class Traces:
    """Byte strings that must be nowhere after a deletion, by what they are.

    ``stored`` stood in the installation before, ``spelled`` are other ways to write them and the id.
    """

    stored: dict[str, bytes]
    spelled: dict[str, bytes]

    @property
    def all(self) -> dict[str, bytes]:
        """All of them."""
        return self.stored | self.spelled


def traces_of(home: Home, subject: Subject) -> Traces:
    """Return the traces of a subject in the database and in the data file, before its deletion."""
    marks = ", ".join("?" * len(subject.rows))
    query = (
        "SELECT r.row, r.record_ref, r.salt, r.content_digest, p.token FROM records r "
        f"JOIN placements p ON p.row = r.row WHERE r.dataset_id = ? AND r.row IN ({marks})"
    )
    stored = {"subject_ref": subject.ref}
    for found in home.rows(query, subject.dataset_id, *subject.rows):
        names = ("record_ref", "salt", "content_digest", "token")
        stored |= {f"{name} of row {found['row']}": bytes(found[name]) for name in names}
    spelled = _spelled("subject id", subject.id)
    for row, record in zip(subject.rows, subject.record_bytes(home), strict=True):
        features = record[:-8]  # the label follows, eight bytes
        stored[f"features of row {row}"] = features
        raw = np.frombuffer(features, dtype=np.uint8).astype("<f4")
        spelled[f"inputs of row {row}"] = (raw * np.float32(0.0625)).tobytes()
        spelled |= _spelled(f"features of row {row}", features)
    for name, value in list(stored.items()):
        spelled |= {key: text for key, text in _spelled(name, value).items() if text != value}
    return Traces(stored=stored, spelled=spelled)


def search(home: Home, wanted: dict[str, bytes]) -> dict[str, list[str]]:
    """Return, by what was wanted, in which files of the installation and its logs it stands."""
    found: dict[str, list[str]] = {}
    for path in sorted(home.folder.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        lowered = data.lower()
        for name, value in wanted.items():
            if value in data or value.lower() in lowered:
                found.setdefault(name, []).append(str(path.relative_to(home.folder)))
    return found


def _spelled(name: str, value: bytes | str) -> dict[str, bytes]:
    """Return a value in the spellings in which it could have been written down."""
    raw = value.encode() if isinstance(value, str) else value
    spelled = {f"{name} in hex": raw.hex().encode()}
    # Base64 depends on what stands before: three alignments, without the characters at the seams.
    for shift in range(3):
        text = base64.b64encode(bytes(shift) + raw)[4 if shift else 0 : -4]
        spelled[f"{name} in base64, {shift} bytes in"] = text
        spelled[f"{name} in base64url, {shift} bytes in"] = text.translate(bytes.maketrans(b"+/", b"-_"))
    if isinstance(value, str):
        spelled[name] = raw
        spelled[f"{name} in UTF-16"] = value.encode("utf-16-le")
    return spelled
