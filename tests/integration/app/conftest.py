"""The real application over each real database, in process."""

import threading
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from app.domain.access import Scope
from app.main import create_app
from app.settings import Settings
from tests.support.client import client_of
from tests.support.world import World


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def service(settings: Settings) -> Iterator[FastAPI]:
    app = create_app(settings)
    yield app
    app.state.context.engine.dispose()


@pytest.fixture
def anonymous(service: FastAPI) -> Iterator[httpx.Client]:
    """Somebody without a key."""
    with client_of(service) as client:
        yield client


@pytest.fixture
def product(service: FastAPI, world: World) -> Iterator[httpx.Client]:
    """A product backend: may post and read deletions."""
    with client_of(service, world.key(Scope.DELETIONS_CREATE, Scope.DELETIONS_READ)) as client:
        yield client


@pytest.fixture
def admin(service: FastAPI, world: World) -> Iterator[httpx.Client]:
    """Somebody who may do all."""
    with client_of(service, world.key(Scope.ADMIN)) as client:
        yield client


@pytest.fixture
def served(settings: Settings, world: World) -> Iterator[httpx.Client]:
    """A client of a real server on a free port, with an admin key."""
    server = uvicorn.Server(uvicorn.Config(create_app(settings), port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive(), "the server did not start"
        port = server.servers[0].sockets[0].getsockname()[1]
        headers = {"Authorization": f"Bearer {world.key()}"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
