"""Alembic migrations, shipped inside the package; ``app.db.migrate`` runs them."""
