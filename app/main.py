"""The service: the only place that wires settings, engine, keys, store, routers and error handlers."""

import gc
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from app.api import class_deletions, deletions, health, models, rectifications
from app.api.deps import Context
from app.api.errors import add_error_handlers, problem_schemas
from app.api.middleware import BodyLimit, RequestContext
from app.db.connecting import API_PATIENCE_SECONDS, POOL_SIZE
from app.db.session import open_engine, open_sessions
from app.dispatch import configure_dispatch
from app.keyring import load_keyring
from app.logs import configure_logging
from app.settings import Settings, get_settings
from models_store.blobs import open_store

CONTRACT_VERSION = "1"


class Service(FastAPI):
    """The application; its description knows the problem answers too."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        document["components"]["schemas"].update(problem_schemas())
        return document


def create_app(
    settings: Settings | None = None, *, patience_seconds: float = API_PATIENCE_SECONDS
) -> FastAPI:
    """Return the service; without settings they come from the environment (``uvicorn --factory``).

    A request waits for a database that is away for ``patience_seconds``.

    Raises:
        SetupError: the keys are missing.
    """
    if settings is None:
        configure_logging()
        settings = get_settings()
    context = open_context(settings, patience_seconds=patience_seconds)
    return _assemble(context, max_body_bytes=settings.max_body_bytes)


def create_app_of_several() -> FastAPI:
    """Return the service for one of several server processes; it ends with the process that started it.

    That one ends its children, unless it is killed: then they would go on with nobody to stop them.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    return create_app()


def open_context(settings: Settings, *, patience_seconds: float = 0.0) -> Context:
    """Return what the service holds while it runs; nothing is written yet."""
    configure_dispatch(settings)
    keyring = load_keyring(settings)
    engine = open_engine(settings.resolved_database_url, patience_seconds=patience_seconds)
    return Context(
        settings=settings, engine=engine, sessions=open_sessions(engine), keyring=keyring,
        store=open_store(settings.resolved_store_url),
    )  # fmt: skip


def openapi_document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 description; needs no keys and no database."""
    return _assemble(None, max_body_bytes=0).openapi()


def _assemble(context: Context | None, *, max_body_bytes: int) -> FastAPI:
    app = Service(
        title="Expunge", version=CONTRACT_VERSION, summary="Makes trained PyTorch models forget people.",
        redirect_slashes=False, docs_url=None, redoc_url=None, lifespan=_lifespan,
    )  # fmt: skip
    app.state.context = context
    for part in (deletions, class_deletions, rectifications, models, health):
        app.include_router(part.router)
    add_error_handlers(app)
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    # Added last, so outermost: a 413 has a request id too.
    app.add_middleware(RequestContext)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # A thread more than there are connections would only wait for one, and for the interpreter's lock.
    current_default_thread_limiter().total_tokens = POOL_SIZE
    # What was imported stays: to look through it again and again would stop every request for a while.
    gc.collect()
    gc.freeze()
    yield
    app.state.context.engine.dispose()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
