"""A class deleted from a model: trained again without it, bit for bit, and nobody's record is destroyed."""

import json
from functools import partial

import numpy as np
import pytest

from app.db.requests import labels_deleted
from app.db.session import reading
from app.db.tables import Record, Suppression
from app.domain.status import Outcome, RequestStatus
from app.services.numbering import NeedsContents
from app.services.seal import seal, seal_due
from models_store.manifest import Manifest
from tests.integration.worker.conftest import NewLab
from tests.support.asked import post_class_deletion, row_of, sealed
from tests.support.trained import Lab, few_digits, recipe_of
from worker.data.data_files import DataFile, Layout, open_data_file


def data_of(lab: Lab) -> DataFile:
    layout = Layout.from_json(lab.dataset.layout)
    return open_data_file(lab.own.settings.data_folder, lab.dataset.id, layout=layout)


def test_the_model_is_what_training_without_the_class_gives(lab: Lab) -> None:
    expected = lab.straight_digest(without_label=3)
    before = bytes(data_of(lab).rows.tobytes())
    request_id = sealed(lab, post_class_deletion(lab, 3))
    version = lab.work()
    num = int((few_digits().labels == 3).sum())
    assert (version.number, version.covers, version.settled) == (2, num, num)
    assert version.weights_digest == expected
    assert lab.audit().is_equal
    (target,) = lab.world.targets(request_id)
    assert (target.outcome, target.num_records) == (Outcome.UNLEARNED, num)
    assert lab.world.request(request_id).status == RequestStatus.COMPLETED
    assert bytes(data_of(lab).rows.tobytes()) == before
    with reading(lab.own.sessions) as session:
        assert session.query(Suppression).count() == 0
        assert session.query(Record).count() == len(few_digits().labels)


def test_a_class_is_forgotten_between_what_did_not_cover_it_and_what_does(lab: Lab) -> None:
    sealed(lab, post_class_deletion(lab, 3))
    num = int((few_digits().labels == 3).sum())
    with reading(lab.own.sessions) as session:
        found = partial(labels_deleted, session, lab.model_id)
        assert found() == found(covers=num) == found(above=num - 1, covers=num) == {3}
        assert found(covers=num - 1) == found(above=num, covers=num + 1) == set()


def test_the_evidence_shows_the_class_before_and_after_beside_the_people(lab: Lab) -> None:
    subject = next(name for name in lab.loners(3) if few_digits().labels[row_of(name)] != 3)
    lab.world.sealed(subject)
    sealed(lab, post_class_deletion(lab, 3))
    manifest = Manifest.from_bytes(lab.own.store.get(lab.work().manifest_digest))
    check = json.loads(lab.own.store.get(manifest.evidence))["checks"]["person"]
    (shown,) = check["figures"]["classes"]
    assert shown["label"] == 3
    assert check["figures"]["num_records"] == shown["num_records"] + 1
    assert shown["after"]["mean_confidence"] < shown["before"]["mean_confidence"]
    assert "of a class: " in check["power"]


def test_the_planner_says_that_everything_is_trained_again(lab: Lab) -> None:
    # A class that the first block met: hardly any did not begin there.
    label = int(few_digits().labels[few_digits().subject_ids.index(lab.loners(0)[0])])
    sealed(lab, post_class_deletion(lab, label))
    claim = lab.settle_claim()
    lab.advance(claim, until="unlearn")
    prepared = lab.view(claim).outputs["prepare"]
    assert isinstance(prepared, dict)
    assert prepared["prediction"]["resumes_after"] == [-1]
    assert prepared["prediction"]["num_blocks"] == prepared["num_all_blocks"] == 6


def test_a_person_of_a_forgotten_class_is_covered_already_and_then_erased(lab: Lab) -> None:
    sealed(lab, post_class_deletion(lab, 3))
    version = lab.work()
    person = next(
        name
        for name, label in zip(few_digits().subject_ids, few_digits().labels, strict=True)
        if label == 3 and name.startswith("loner")
    )
    request_id = lab.world.sealed(person)
    assert lab.work() == version
    (target,) = lab.world.targets(request_id)
    assert target.outcome == Outcome.ALREADY_COVERED
    assert not np.any(data_of(lab).rows["features"][few_digits().subject_ids.index(person)])


def test_a_class_and_a_person_make_the_same_model_in_any_order(lab: Lab, twin: Lab) -> None:
    person = lab.loners(2)[0]
    sealed(lab, post_class_deletion(lab, 5))
    lab.work()
    twin.forget(person)
    sealed(twin, post_class_deletion(twin, 5))
    assert lab.forget(person).weights_digest == twin.work().weights_digest


def test_every_shard_forgets_the_class(sharded: Lab) -> None:
    expected = sharded.straight_digest(without_label=1)
    sealed(sharded, post_class_deletion(sharded, 1))
    assert sharded.work().weights_digest == expected


def test_a_fast_version_comes_first_where_the_policy_wants_one(new_lab: NewLab) -> None:
    settings = {"finetune": {"epochs": 1, "batch_size": 16}}
    lab = new_lab(recipe_of(epochs=8), interim_method="finetune", methods=settings, max_drop=1.0)
    lab.work()
    expected = lab.straight_digest(without_label=3)
    sealed(lab, post_class_deletion(lab, 3))
    assert lab.work().weights_digest == expected
    assert [version.guarantee for version in lab.versions] == ["exact", "empirical", "exact"]


def test_who_has_no_data_files_leaves_it_to_who_has(lab: Lab) -> None:
    request_id = post_class_deletion(lab, 3)
    with pytest.raises(NeedsContents):
        seal(lab.own.sessions, request_id)
    assert seal_due(lab.own.sessions) == []
    assert lab.world.request(request_id).status == RequestStatus.RECEIVED
    assert len(seal_due(lab.own.sessions, contents=lab.own.contents)) == 1


def test_an_unreadable_data_file_keeps_its_own_requests_waiting_and_no_others(lab: Lab) -> None:
    waiting = post_class_deletion(lab, 3)
    path = lab.own.settings.data_folder / lab.dataset.id / "records.bin"
    path.rename(path.with_name("elsewhere"))
    person = lab.world.post("nobody")
    seal_due(lab.own.sessions, contents=lab.own.contents)
    assert lab.world.request(waiting).status == RequestStatus.RECEIVED
    assert lab.world.request(person).status == RequestStatus.SCHEDULED
    path.with_name("elsewhere").rename(path)
    seal_due(lab.own.sessions, contents=lab.own.contents)
    assert lab.world.request(waiting).status == RequestStatus.SCHEDULED
