"""Corrected contents that a model is not to learn: no run of any n may meet them, and no method undo them."""

import torch

from app.domain.changes import Changes
from app.domain.status import Outcome, RequestStatus
from app.services.claim import finish_step
from tests.integration.worker.conftest import NewLab
from tests.integration.worker.test_rectification import by_one_step, correct, data_of, other_label, served
from tests.support.asked import post_class_deletion, post_rectification, row_of, sealed
from tests.support.trained import Lab, few_digits, recipe_of
from worker.context import JobContext
from worker.pipeline import STEPS


def test_a_version_from_before_is_audited_without_what_was_corrected_into_a_forgotten_class(
    lab: Lab,
) -> None:
    subject = lab.loners(2)[0]
    sealed(lab, post_class_deletion(lab, other_label(subject)))
    correct(lab, subject)
    assert lab.audit("1").is_equal


def test_a_class_that_every_model_forgot_keeps_its_records_and_they_can_be_corrected(lab: Lab) -> None:
    subject = lab.loners(2)[0]
    row, num_rows = row_of(subject), len(data_of(lab).rows)
    sealed(lab, post_class_deletion(lab, int(few_digits().labels[row])))
    version = lab.work()
    request_id = correct(lab, subject)
    assert lab.audit().is_equal
    assert lab.work().weights_digest == version.weights_digest
    (target,) = lab.world.targets(request_id)
    assert target.outcome != Outcome.NO_DATA
    rows = data_of(lab).rows
    assert not any(rows[row].tobytes())
    assert int(rows["label"][num_rows]) == other_label(subject)


def test_a_content_that_came_and_went_before_it_was_learned_has_no_influence_to_take_back(
    new_lab: NewLab,
) -> None:
    settings = {"influence_first": {"rate": 1e-4}}
    lab = new_lab(recipe_of(epochs=8), interim_method="influence_first", methods=settings, max_drop=1.0)
    lab.work()
    subject = lab.loners(2)[0]
    expected = by_one_step(lab, subject, rate=1e-4)
    sealed(lab, post_rectification(lab, subject, Changes(label=(other_label(subject) + 1) % 10)))
    correct(lab, subject)
    lab.finish(lab.settle_claim())
    assert (lab.version.covers, lab.version.settled) == (2, 0)
    for name, value in served(lab, 2).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=5e-7)


def test_a_deletion_of_whom_a_class_covered_takes_a_correction_that_no_model_learns_along(lab: Lab) -> None:
    subject = lab.loners(2)[0]
    row, num_rows = row_of(subject), len(data_of(lab).rows)
    sealed(lab, post_class_deletion(lab, int(few_digits().labels[row])))
    lab.work()
    request_id = lab.world.sealed(subject)
    claim = lab.settle_claim()
    found = STEPS[claim.kind][0].run(JobContext(lab.own, claim))
    assert found["is_covered"]
    claim = finish_step(lab.own.sessions, claim, next_step="purge", output=found)
    correct(lab, subject)
    lab.finish(claim)
    lab.work()
    assert lab.world.request(request_id).status == RequestStatus.COMPLETED
    rows = data_of(lab).rows
    assert not any(rows[row].tobytes())
    assert not rows[num_rows:].tobytes().strip(b"\0")
