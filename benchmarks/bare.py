"""What the load is compared with: a FastAPI endpoint that inserts one row, and nothing else.

No keys, no checks, one table. The same framework, driver, pool and server settings as the service.
"""

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI
from pydantic import BaseModel
from sqlalchemy import Column, MetaData, String, Table, insert

from app.db.connecting import POOL_SIZE
from app.db.session import open_engine

URL_VARIABLE = "EXPUNGE_DATABASE_URL"
_METADATA = MetaData()
_ROWS = Table("bare_rows", _METADATA, Column("id", String, primary_key=True), Column("subject_id", String))


class RowIn(BaseModel):
    """What is posted."""

    subject_id: str


def create_bare_app() -> FastAPI:
    """Return the application; its table is made when missing."""
    engine = open_engine(os.environ[URL_VARIABLE])

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = POOL_SIZE
        yield
        engine.dispose()

    app = FastAPI(lifespan=lifespan)

    @app.post("/rows", status_code=202)
    def create_row(body: RowIn) -> dict[str, str]:
        row = {"id": secrets.token_hex(16), "subject_id": body.subject_id}
        with engine.begin() as connection:
            connection.execute(insert(_ROWS), row)
        return row

    return app


def create_table(database_url: str) -> None:
    """Make the table."""
    engine = open_engine(database_url)
    _METADATA.create_all(engine)
    engine.dispose()
