"""A deletion that arrives while a training or another replay runs ends in the oracle's digest as well."""

import json
from collections.abc import Callable

from tests.acceptance.conftest import Story, forgotten_subject
from tests.support.kills import caught_in, waiting_job
from tests.support.people import subject_in
from tests.support.service import Home, Service


def oracle_agrees(home: Home, model: str) -> bool:
    done = home.run("expunge-worker", "oracle", model, "--json")
    return bool(json.loads(done.out)["is_equal"])


def num_settlements(home: Home) -> int:
    return int(home.one("SELECT count(*) FROM jobs WHERE kind = 'settle'"))


def require_gapless(home: Home) -> None:
    for model in home.rows("SELECT id, num_sealed FROM models"):
        numbers = home.rows("SELECT number FROM tombstones WHERE model_id = ? ORDER BY number", model["id"])
        assert [row["number"] for row in numbers] == list(range(1, model["num_sealed"] + 1))


def test_a_deletion_posted_while_training_runs_is_left_out_of_it(
    ordered: Home, story: Story, copy_of: Callable[[Home], Home]
) -> None:
    home = copy_of(ordered)
    home.worker()
    with home.service() as service:
        training = caught_in(home, waiting_job(home, "train"), "unlearn")
        deletion = service.post(forgotten_subject(home).id)["id"]
        home.wait_for("the sealing", lambda: home.one("SELECT num_sealed FROM models"))
        training.let_go()
        service.wait_until_completed(deletion)
        versions = service.admin.get("/models/digits/versions").json()["items"]
    # The training left the subject out, or went back for it; the settle job had only to purge.
    assert [(one["covers"], one["weights_digest"]) for one in versions] == [(3, story.weights_digest)]


def test_a_deletion_posted_while_another_replay_runs_joins_it(town: Service) -> None:
    first, second = (subject_in(town.home, block=block) for block in (1, 5))
    before, num_before = town.version("digits"), num_settlements(town.home)
    deletions = [town.post(first.id, models=["digits"])["id"]]
    replay = caught_in(town.home, waiting_job(town.home, "settle"), "unlearn")
    deletions.append(town.post(second.id, models=["digits"])["id"])
    town.home.wait_for("the sealing", lambda: town.show(deletions[1])["status"] != "received")
    replay.let_go()
    town.wait_until_completed(*deletions)
    assert num_settlements(town.home) == num_before + 2  # the second has only to purge
    after = town.version("digits")
    assert (after["number"], after["covers"]) == (before["number"] + 1, before["covers"] + 6)
    assert oracle_agrees(town.home, "digits")


def test_requests_posted_together_are_settled_with_gapless_tombstones(town: Service) -> None:
    subjects = [subject_in(town.home, block=block, number=1) for block in (3, 6)]
    before, num_before = town.version("digits"), num_settlements(town.home)
    deletions = [town.post(subject.id, models=["digits"])["id"] for subject in subjects]
    town.wait_until_completed(*deletions)
    assert num_before < num_settlements(town.home) <= num_before + len(subjects)
    assert town.version("digits")["covers"] == before["covers"] + 6
    require_gapless(town.home)
    assert oracle_agrees(town.home, "digits")
