"""Databases of one kind share compiled statements, and nothing else."""

from pathlib import Path

from sqlalchemy import Engine, Integer, column, select, table, text

from app.db.session import open_engine
from tests.support.statements import FORMS

_FROG = table("frogs", column("legs", Integer))


def frogs(folder: Path, *, legs: int) -> Engine:
    """Return a database with one frog."""
    engine = open_engine(f"sqlite:///{folder / f'{legs}.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE frogs (legs INTEGER)"))
        connection.execute(_FROG.insert().values(legs=legs))
    return engine


def num_legs(engine: Engine, *, at_least: int) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(select(_FROG.c.legs).where(_FROG.c.legs >= at_least)))


def test_a_statement_is_compiled_for_the_first_database_and_asks_each_its_own_rows(tmp_path: Path) -> None:
    four, six = frogs(tmp_path, legs=4), frogs(tmp_path, legs=6)
    assert num_legs(four, at_least=1) == [4]
    num_forms = len(FORMS)
    assert num_legs(six, at_least=1) == [6]
    assert (num_legs(six, at_least=7), num_legs(four, at_least=4)) == ([], [4])
    assert len(FORMS) == num_forms > 0
    for engine in (four, six):
        engine.dispose()
