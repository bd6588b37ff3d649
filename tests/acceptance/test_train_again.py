"""`expunge-worker train` is run again: after a kill it goes on, after its end it changes nothing."""

from collections.abc import Callable

import pytest

from tests.support.kills import caught_in, kill_all
from tests.support.recipes import write_recipe
from tests.support.service import Home

Copy = Callable[[Home], Home]
TABLES = ("datasets", "models", "jobs", "versions", "checkpoints", "blobs", "alias_moves")


def rows_of(home: Home) -> dict[str, list[tuple[object, ...]]]:
    return {table: [tuple(row) for row in home.rows(f"SELECT * FROM {table}")] for table in TABLES}


def test_a_training_that_was_killed_goes_on_where_it_was(ordered: Home, trained: Home, copy_of: Copy) -> None:
    home = copy_of(ordered)
    recipe = str(write_recipe(home))
    training = home.begin("expunge-worker", "train", recipe)
    caught = caught_in(home, home.one("SELECT id FROM jobs"), "unlearn")
    kill_all(home, training, caught=caught)
    num_kept = home.one("SELECT count(*) FROM checkpoints WHERE role = 'policy'")
    assert num_kept

    done = home.run("expunge-worker", "train", recipe)
    versions = "SELECT number, weights_digest FROM versions"
    assert [tuple(row) for row in home.rows(versions)] == [tuple(row) for row in trained.rows(versions)]
    resumed_after = home.one("SELECT json_extract(outputs, '$.unlearn.resumed_after[0]') FROM jobs")
    # Four states at most were on their way to the disk.
    assert resumed_after >= max(0, num_kept - 5)
    assert "version 1 is current" in done.out


@pytest.fixture
def begun(trained: Home, copy_of: Copy) -> Home:
    return copy_of(trained)


def test_a_finished_training_says_so_and_another_recipe_of_that_name_is_refused(begun: Home) -> None:
    before, files = rows_of(begun), begun.store_files()
    again = begun.begin("expunge-worker", "train", str(write_recipe(begun)))
    other = begun.begin("expunge-worker", "train", str(write_recipe(begun, seed=1)))
    finished, refused = begun.finish(again), begun.finish(other)
    assert finished.code == 0
    assert "digits: version 1 is current" in finished.out
    assert refused.code == 2
    assert refused.err == (
        "expunge-worker: a model called 'digits' stands with another recipe: choose another name\n"
    )
    assert (rows_of(begun), begun.store_files()) == (before, files)
