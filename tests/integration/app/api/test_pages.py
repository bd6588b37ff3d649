"""Lists: pages put together are the whole list, whatever arrives meanwhile."""

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.db.ids import new_id
from app.db.listing import Filters
from app.domain.access import Caller, Scope
from app.domain.terms import KeyId, TenantName
from app.services.show_deletions import list_deletions
from tests.support.client import client_of
from tests.support.problems import problem_of
from tests.support.world import World


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(limit=st.integers(1, 5), times=st.lists(st.sampled_from([1.0, 2.0, 3.0]), max_size=9))
def test_pages_put_together_are_the_list_as_it_was_at_the_first_page(
    world: World, limit: int, times: list[float]
) -> None:
    world.tenant = TenantName(new_id("key"))  # the database is shared by the examples
    caller = Caller(key_id=KeyId("k"), tenant=world.tenant, scopes=frozenset({Scope.ADMIN}))
    for at in times:  # many share a time: the id decides
        world.shift(world.post("somebody"), posted_at=at)

    def page(token: str | None) -> tuple[list[str], str | None]:
        found = list_deletions(
            world.sessions, caller=caller, filters=Filters(), limit=limit, token=token, keyring=world.keyring
        )
        return [item.id for item in found.items], found.next

    whole, _ = _all(world, caller)
    seen, token = page(None)
    while token is not None:
        world.post("a newcomer")
        items, token = page(token)
        seen += items
    assert seen == whole


def _all(world: World, caller: Caller) -> tuple[list[str], str | None]:
    found = list_deletions(
        world.sessions, caller=caller, filters=Filters(), limit=10_000, token=None, keyring=world.keyring
    )
    return [item.id for item in found.items], found.next


def test_a_list_is_newest_first_and_ends_without_a_token(product: httpx.Client, world: World) -> None:
    ids = [world.post(f"s{index}") for index in range(3)]
    for at, request_id in enumerate(ids):
        world.shift(request_id, posted_at=float(at))
    first = product.get("/deletions", params={"limit": 2}).json()
    last = product.get("/deletions", params={"limit": 2, "page": first["next"]}).json()
    assert [item["id"] for item in first["items"] + last["items"]] == ids[::-1]
    assert last["next"] is None


def test_filters_narrow_by_model_and_due_date(product: httpx.Client, world: World) -> None:
    dataset = world.dataset(subjects={})
    for name in ("one", "two"):
        world.model(name, dataset=dataset)
    early, late = world.post("a", models=["one"], due_at=4e9), world.post("b", models=["two"], due_at=5e9)

    def found(**query: str) -> list[str]:
        return [item["id"] for item in product.get("/deletions", params=query).json()["items"]]

    assert found(model="one") == [early]
    assert found(model="ghost") == []
    assert found(due_before="2110-01-01T00:00:00Z") == [early]
    assert found(model="two", due_before="2200-01-01T00:00:00+00:00") == [late]


def test_narrowed_by_due_date_the_latest_due_comes_first(product: httpx.Client, world: World) -> None:
    soon, _, late = (world.post(name, due_at=at) for name, at in (("a", 4e9), ("b", 9e9), ("c", 5e9)))
    query = {"due_before": "2200-01-01T00:00:00Z", "limit": "1"}
    first = product.get("/deletions", params=query).json()
    last = product.get("/deletions", params=query | {"page": first["next"]}).json()
    assert [item["id"] for item in first["items"] + last["items"]] == [late, soon]
    assert last["next"] is None


@pytest.fixture
def token(product: httpx.Client, world: World) -> str:
    for index in range(3):
        world.post(f"s{index}")
    return str(product.get("/deletions", params={"limit": 1}).json()["next"])


def test_a_token_serves_no_other_selection_tenant_or_view(
    product: httpx.Client, admin: httpx.Client, service: FastAPI, world: World, token: str
) -> None:
    assert product.get("/deletions", params={"page": token}).status_code == 200
    problem_of(product.get("/deletions", params={"page": token, "status": "received"}), 400, "invalid-page")
    problem_of(admin.get("/deletions", params={"page": token}), 400, "invalid-page")
    other = client_of(service, world.key(Scope.DELETIONS_READ, tenant=TenantName("other")))
    problem_of(other.get("/deletions", params={"page": token}), 400, "invalid-page")


def test_a_token_with_any_character_changed_is_refused(product: httpx.Client, token: str) -> None:
    for place in range(0, len(token) - 1, 7):
        forged = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        problem_of(product.get("/deletions", params={"page": forged}), 400, "invalid-page")
