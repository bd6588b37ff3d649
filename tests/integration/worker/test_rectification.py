"""A record corrected: every model learns the true content in the record's own place, bit for bit."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from app.db.session import reading
from app.db.tables import Record, Request, Suppression, Tombstone
from app.domain.changes import Changes
from app.domain.status import Outcome, RequestStatus
from app.services.seal import seal
from models_store.manifest import Manifest
from models_store.tensors import unpack
from tests.integration.worker.conftest import NewLab
from tests.integration.worker.test_joining import BeforeBlock, at_block, once
from tests.support.asked import post_class_deletion, post_rectification, row_of, sealed
from tests.support.trained import PLAN, Lab, few_digits, recipe_of
from worker.data.contents import FileContents
from worker.data.data_files import DataFile, Layout, open_data_file
from worker.training.factory import build_net
from worker.training.recipe import recipe_from_json
from worker.training.state import weights

__all__ = ["at_block"]
LAST = PLAN["blocks"] - 1


def data_of(lab: Lab) -> DataFile:
    layout = Layout.from_json(lab.dataset.layout)
    return open_data_file(lab.own.settings.data_folder, lab.dataset.id, layout=layout)


def other_label(subject: str) -> int:
    return (int(few_digits().labels[row_of(subject)]) + 1) % 10


def correct(lab: Lab, subject: str) -> str:
    return sealed(lab, post_rectification(lab, subject, Changes(label=other_label(subject))))


@pytest.mark.parametrize("block", [0, 2, LAST])
def test_the_model_is_what_training_on_the_true_label_gives(lab: Lab, block: int) -> None:
    subject = lab.loners(block)[0]
    row, label = row_of(subject), other_label(subject)
    expected = lab.straight_digest(labels={row: label})
    assert expected != lab.version.weights_digest
    request_id = correct(lab, subject)
    claim = lab.settle_claim()
    lab.advance(claim, until="unlearn")
    assert lab.view(claim).outputs["prepare"]["prediction"]["resumes_after"] == [block - 1]  # type: ignore[index,call-overload]
    lab.finish(claim)
    lab.work()
    assert (lab.version.covers, lab.version.weights_digest) == (1, expected)
    assert lab.audit().is_equal
    (target,) = lab.world.targets(request_id)
    assert (target.outcome, target.num_records) == (Outcome.UNLEARNED, 1)


def test_the_former_content_is_erased_and_the_true_one_has_a_fresh_salt(lab: Lab) -> None:
    subject = lab.loners(2)[0]
    row, before = row_of(subject), len(data_of(lab).rows)
    with reading(lab.own.sessions) as session:
        old = session.get_one(Record, (lab.dataset.id, row))
    features = np.array(data_of(lab).rows["features"][row])
    request_id = correct(lab, subject)
    assert np.array_equal(data_of(lab).rows["features"][row], features)
    lab.work()
    rows = data_of(lab).rows
    assert len(rows) == before + 1
    assert not any(rows[row].tobytes())
    assert np.array_equal(rows["features"][before], features)
    assert int(rows["label"][before]) == other_label(subject)
    with reading(lab.own.sessions) as session:
        assert session.get(Record, (lab.dataset.id, row)) is None
        new = session.get_one(Record, (lab.dataset.id, before))
        request = session.get_one(Request, request_id)
        assert session.query(Suppression).count() == 0
        (mark,) = session.query(Tombstone).all()
    assert (new.record_ref, new.subject_ref, new.is_held_out) == (
        old.record_ref, old.subject_ref, old.is_held_out
    )  # fmt: skip
    assert new.salt != old.salt
    assert new.content_digest != old.content_digest
    assert (mark.row, mark.replaced_by, mark.request_id) == (None, None, None)
    assert request.status == RequestStatus.COMPLETED
    assert (request.asked, request.subject_refs, request.record_refs) == (None, None, None)


def test_a_second_correction_replaces_the_first_even_before_it_is_done(lab: Lab) -> None:
    subject = lab.loners(3)[0]
    row, labels = row_of(subject), [(other_label(subject) + step) % 10 for step in (0, 1)]
    expected = lab.straight_digest(labels={row: labels[1]})
    for label in labels:
        sealed(lab, post_rectification(lab, subject, Changes(label=label)))
    version = lab.work()
    assert (version.covers, version.weights_digest) == (2, expected)
    with reading(lab.own.sessions) as session:
        stored = [r.row for r in session.query(Record).order_by(Record.row)]
    assert stored[-1] == len(data_of(lab).rows) - 1
    assert row not in stored
    assert stored[-1] - 1 not in stored


def test_the_same_correction_asked_for_twice_is_worked_once(lab: Lab) -> None:
    subject = lab.loners(3)[0]
    expected = lab.straight_digest(labels={row_of(subject): other_label(subject)})
    changes = Changes(label=other_label(subject))
    ids = [sealed(lab, post_rectification(lab, subject, changes)) for _ in range(2)]
    version = lab.work()
    assert (version.number, version.covers, version.weights_digest) == (2, 1, expected)
    assert lab.world.request(ids[1]).duplicate_of == ids[0]
    assert {lab.world.request(each).status for each in ids} == {RequestStatus.COMPLETED}
    rows = data_of(lab).rows
    assert len(rows) == len(few_digits().labels) + 1
    assert not any(rows[row_of(subject)].tobytes())


def test_a_family_keeps_its_other_records(lab: Lab) -> None:
    family = lab.families[1]
    expected = lab.straight_digest(labels={row_of(family): other_label(family)})
    correct(lab, family)
    assert lab.work().weights_digest == expected


@pytest.mark.parametrize("is_first", [True, False])
def test_whoever_is_corrected_and_deleted_is_gone_with_both_contents(lab: Lab, is_first: bool) -> None:
    subject = lab.loners(1)[0]
    expected = lab.straight_digest(without=[subject])
    steps = [partial(correct, lab, subject), partial(lab.world.sealed, subject)]
    ids = [step() for step in (steps if is_first else reversed(steps))]
    assert lab.work().weights_digest == expected
    assert {lab.world.request(each).status for each in ids} == {RequestStatus.COMPLETED}
    rows = data_of(lab).rows
    assert not any(rows[row_of(subject)].tobytes())
    assert len(rows) == len(few_digits().labels) + is_first
    if is_first:
        assert not any(rows[-1].tobytes())


def test_a_correction_after_its_completion_can_be_deleted(lab: Lab) -> None:
    subject = lab.loners(1)[0]
    expected = lab.straight_digest(without=[subject])
    correct(lab, subject)
    lab.work()
    assert lab.forget(subject).weights_digest == expected
    assert not any(data_of(lab).rows[-1].tobytes())


def test_a_record_corrected_into_a_forgotten_class_is_not_learned(lab: Lab) -> None:
    subject = lab.loners(2)[0]
    label = other_label(subject)
    expected = lab.straight_digest(without_label=label, without=[subject])
    sealed(lab, post_class_deletion(lab, label))
    correct(lab, subject)
    assert lab.work().weights_digest == expected


def test_a_class_forgotten_later_takes_corrected_records_along(lab: Lab) -> None:
    subject = lab.loners(2)[0]
    label = other_label(subject)
    expected = lab.straight_digest(without_label=label, labels={row_of(subject): label})
    correct(lab, subject)
    sealed(lab, post_class_deletion(lab, label))
    assert lab.work().weights_digest == expected


@pytest.mark.parametrize("block", [1, 4])
def test_it_joins_a_running_job_ahead_of_it_or_sends_it_back(
    lab: Lab, at_block: Callable[[BeforeBlock], None], block: int
) -> None:
    first, joined = lab.in_block(1)[0], lab.loners(block)[-1]
    expected = lab.straight_digest(without=[first], labels={row_of(joined): other_label(joined)})
    at_block(once(2, partial(correct, lab, joined)))
    claim = lab.settle_claim(first)
    lab.finish(claim)
    assert (lab.version.covers, lab.version.weights_digest) == (2, expected)


def test_a_held_out_record_is_corrected_without_training(lab: Lab) -> None:
    subject = next(name for name in lab.in_block(None) if name.startswith("loner"))
    before = lab.version
    correct(lab, subject)
    version = lab.work()
    assert (version.covers, version.weights_digest) == (1, before.weights_digest)
    assert not any(data_of(lab).rows[row_of(subject)].tobytes())


def test_somebody_elses_record_is_not_touched(lab: Lab) -> None:
    stranger, owner = lab.loners(1)[:2]
    record_id = few_digits().record_ids[row_of(owner)]
    before, version = bytes(data_of(lab).rows.tobytes()), lab.version
    posted = post_rectification(lab, stranger, Changes(label=1), record_id=record_id)
    request_id = sealed(lab, posted)
    assert lab.work() == version
    (target,) = lab.world.targets(request_id)
    assert target.outcome == Outcome.NO_DATA
    assert bytes(data_of(lab).rows.tobytes()) == before


def test_it_waits_for_an_admin_whatever_the_policy_says(lab: Lab) -> None:
    request_id = post_rectification(lab, lab.loners(1)[0], Changes(label=1))
    assert lab.world.request(request_id).status == RequestStatus.HELD
    seal(lab.own.sessions, request_id, contents=lab.own.contents)
    assert lab.world.request(request_id).status == RequestStatus.HELD


class Killed(BaseException):
    """The process dies."""


def test_killed_while_it_is_sealed_the_next_one_writes_over_what_was_begun(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = lab.loners(2)[0]
    expected = lab.straight_digest(labels={row_of(subject): other_label(subject)})
    write = FileContents.write_changed

    def die(self: FileContents, *given: object, **more: object) -> bytes:
        write(self, *given, **more)  # type: ignore[arg-type]
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(FileContents, "write_changed", die)
        with pytest.raises(Killed):
            correct(lab, subject)
    num_rows = len(data_of(lab).rows)
    with reading(lab.own.sessions) as session:
        request_id = session.query(Request).one().id
    sealed(lab, request_id)
    assert lab.work().weights_digest == expected
    assert len(data_of(lab).rows) == num_rows == len(few_digits().labels) + 1


def served(lab: Lab, number: int) -> dict[str, Tensor]:
    manifest = Manifest.from_bytes(lab.own.store.get(lab.versions[number - 1].manifest_digest))
    return unpack(lab.own.store.get(manifest.constituents[0].digest))[0]


def by_one_step(lab: Lab, subject: str, *, rate: float) -> dict[str, Tensor]:
    """Return what one step along the changed gradients makes of version 1, by plain autograd."""
    net = build_net(recipe_from_json(lab.model.recipe), shard=0, device=torch.device("cpu")).eval()
    net.load_state_dict(served(lab, 1))
    pixels = torch.from_numpy(np.array(few_digits().features[row_of(subject)], dtype=np.float32))
    inputs, slopes = ((pixels / 16).reshape(1, 1, 8, 8) - 0.3) / 0.4, []
    for label in (int(few_digits().labels[row_of(subject)]), other_label(subject)):
        loss = torch.nn.functional.cross_entropy(net(inputs), torch.tensor([label]))
        slopes.append(torch.autograd.grad(loss, list(net.parameters())))
    with torch.no_grad():
        for parameter, old, new in zip(net.parameters(), *slopes, strict=True):
            parameter.add_(old - new, alpha=rate)
    return weights(net)


def test_the_influence_of_a_label_is_taken_back_first_and_the_exact_version_settles_it(
    new_lab: NewLab,
) -> None:
    settings = {"influence_first": {"rate": 1e-4}}
    lab = new_lab(recipe_of(epochs=8), interim_method="influence_first", methods=settings, max_drop=1.0)
    lab.work()
    subject = lab.loners(2)[0]
    exact = lab.straight_digest(labels={row_of(subject): other_label(subject)})
    expected = by_one_step(lab, subject, rate=1e-4)
    correct(lab, subject)
    lab.finish(lab.settle_claim())
    assert (lab.version.number, lab.version.covers, lab.version.settled) == (2, 1, 0)
    for name, value in served(lab, 2).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=5e-7)
    assert lab.work().weights_digest == exact
