"""Two models on one dataset: a record's bytes go when the last of them has forgotten it."""

from typing import Any

from app.signing import verify
from tests.support.kills import caught_in
from tests.support.people import subject_in
from tests.support.service import Service

OPEN_JOBS = "SELECT id FROM jobs WHERE status IN ('queued', 'running')"


def receipt_of(service: Service, deletion: str) -> dict[str, Any]:
    keys = service.admin.get("/.well-known/jwks.json").json()
    return verify(service.admin.get(f"/deletions/{deletion}/receipt").text, keys=keys)


def statuses_of(service: Service, deletion: str) -> set[str]:
    return {target["status"] for target in service.show(deletion)["targets"]}


def test_the_record_bytes_stay_until_both_models_have_published(town: Service) -> None:
    home, subject = town.home, subject_in(town.home, block=0)
    home.wait_for("quiet", lambda: not home.rows(OPEN_JOBS))
    bytes_before = subject.record_bytes(home)
    deletion = str(town.post(subject.id)["id"])
    home.wait_for("a settlement for each model", lambda: len(home.rows(OPEN_JOBS)) == 2)
    home.wait_for("the first one's end", lambda: len(home.rows(OPEN_JOBS)) == 1)
    second = caught_in(home, home.one(OPEN_JOBS), "verify")

    assert "purging" in statuses_of(town, deletion)
    assert subject.record_bytes(home) == bytes_before

    second.let_go()
    town.wait_until_completed(deletion)
    assert subject.is_erased(home)


def test_a_request_narrowed_to_one_model_leaves_the_bytes_to_the_other_and_says_so(town: Service) -> None:
    subject = subject_in(town.home, block=0, number=1)
    narrowed = town.forget(subject.id, models=["digits"])
    assert all(any(record) for record in subject.record_bytes(town.home))
    (part,) = receipt_of(town, narrowed)["models"]
    assert (part["outcome"], part["num_records_erased"]) == ("unlearned", 0)
    assert part["remains"] == ["the record bytes, used by other"]

    whole = town.forget(subject.id)
    assert subject.is_erased(town.home)
    parts = {part["model"]: part for part in receipt_of(town, whole)["models"]}
    outcomes = {name: part["outcome"] for name, part in parts.items()}
    assert outcomes == {"digits": "already_covered", "other": "unlearned"}
    assert [part["num_records_erased"] for part in parts.values()] == [3, 3]
    assert [part["remains"] for part in parts.values()] == [[], []]
