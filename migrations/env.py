"""Alembic's entry: run the migrations on the connection that ``app.db.migrate`` hands over.

The caller owns the transaction, so that a migration that fails halfway leaves nothing behind, on SQLite too.
"""

from alembic import context
from sqlalchemy import Connection

from app.db.tables import Table


def run(connection: Connection) -> None:
    """Apply what was asked for; SQLite alters tables by copying them (batch mode)."""
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
    )
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
