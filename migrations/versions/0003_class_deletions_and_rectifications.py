"""Class deletions and rectifications."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    kind = sa.Column("kind", sa.String(length=255), server_default="deletion", nullable=False)
    op.add_column("requests", kind)
    op.add_column("requests", sa.Column("asked", sa.JSON(), nullable=True))
    op.add_column("tombstones", sa.Column("replaced_by", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("tombstones", "replaced_by")
    op.drop_column("requests", "asked")
    op.drop_column("requests", "kind")
