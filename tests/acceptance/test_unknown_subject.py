"""To a product, a subject that no model ever held looks like one that was held."""

import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from app.signing import verify
from tests.support.people import subject_in
from tests.support.service import Service


@dataclass
class Seen:
    """What a product saw of one deletion, in order, each form and each status once."""

    acknowledgement: dict[str, Any]
    statuses: list[tuple[str, str]] = field(default_factory=list)
    forms: list[Any] = field(default_factory=list)
    completed_at: float = 0.0
    trail: list[str] = field(default_factory=list)
    receipt: dict[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return str(self.acknowledgement["id"])

    def look(self, service: Service) -> None:
        answer = service.product.get(f"/deletions/{self.id}")
        body = answer.json()
        statuses = (body["status"], ", ".join(sorted({target["status"] for target in body["targets"]})))
        shape = (statuses[0], "retry-after" in answer.headers, form_of(body))
        if statuses not in self.statuses:
            self.statuses.append(statuses)
        if shape not in self.forms:
            self.forms.append(shape)
        if body["status"] == "completed" and not self.completed_at:
            self.completed_at = time.time()


def form_of(value: object) -> object:
    """Return the keys and the kinds of values, without the values."""
    if isinstance(value, dict):
        return {key: form_of(part) for key, part in value.items()}
    if isinstance(value, list):
        return [form_of(part) for part in value]
    return type(value).__name__


@pytest.fixture(scope="module")
def pair(town: Service) -> tuple[Seen, Seen]:
    """A known and an unknown subject, posted together and watched together."""
    ids = (subject_in(town.home, block=4).id, "nobody-has-this-id")
    known, unknown = (Seen(town.post(subject_id, reason_code="art17")) for subject_id in ids)

    def are_completed() -> bool:
        for seen in (known, unknown):
            seen.look(town)
        return bool(known.completed_at and unknown.completed_at)

    town.home.wait_for("what the product sees", are_completed)
    keys = town.product.get("/.well-known/jwks.json").json()
    for seen in (known, unknown):
        events = town.product.get(f"/deletions/{seen.id}/events").json()["items"]
        seen.trail = [event["name"] for event in events]
        seen.receipt = verify(town.product.get(f"/deletions/{seen.id}/receipt").text, keys=keys)
    return known, unknown


def test_the_acknowledgement_has_the_same_form(pair: tuple[Seen, Seen]) -> None:
    known, unknown = pair
    assert form_of(known.acknowledgement) == form_of(unknown.acknowledgement)
    assert known.acknowledgement["status"] == unknown.acknowledgement["status"] == "received"


def test_the_statuses_and_their_forms_follow_each_other_alike(pair: tuple[Seen, Seen]) -> None:
    known, unknown = pair
    # Before the sealing, within a second, a look may or may not still find "received".
    steps = [[step for step in seen.statuses if step[0] != "received"] for seen in pair]
    assert steps[0] == steps[1] == [("scheduled", "scheduled"), ("completed", "completed")]
    forms = [[form for form in seen.forms if form[0] != "received"] for seen in pair]
    assert forms[0] == forms[1]
    assert known.trail == unknown.trail == ["received", "scheduled", "completed"]


def test_neither_is_seen_completed_before_its_reveal_time(pair: tuple[Seen, Seen], town: Service) -> None:
    for seen in pair:
        reveal_at = town.home.one("SELECT reveal_at FROM requests WHERE id = ?", seen.id)
        assert seen.completed_at >= reveal_at
        assert seen.receipt["visible_at"] >= reveal_at
    predicted = [
        town.home.one("SELECT reveal_at - posted_at FROM requests WHERE id = ?", seen.id) for seen in pair
    ]
    assert predicted[0] == pytest.approx(predicted[1], abs=1e-3)


def test_the_receipts_have_the_same_form(pair: tuple[Seen, Seen]) -> None:
    known, unknown = pair
    assert form_of(known.receipt) == form_of(unknown.receipt)
    assert known.receipt["models"] == unknown.receipt["models"]
    assert known.receipt["not_reached"] == unknown.receipt["not_reached"]


def test_only_an_admin_learns_who_was_held(pair: tuple[Seen, Seen], town: Service) -> None:
    outcomes = [{target["truth"]["outcome"] for target in town.show(seen.id)["targets"]} for seen in pair]
    assert outcomes == [{"unlearned"}, {"no_data"}]
