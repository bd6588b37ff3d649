"""Start times, workers and pages."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("owner", sa.String(length=255), nullable=False),
        sa.Column("device_class", sa.String(length=255), nullable=False),
        sa.Column("environment_digest", sa.String(length=255), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("pk_workers")),
    )
    op.add_column("jobs", sa.Column("start_at", sa.Double(), server_default=sa.text("0"), nullable=True))

    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.create_index("ix_requests_due", ["tenant", "due_at", "id"], unique=False)
        batch_op.create_index(
            "ix_requests_match",
            ["tenant", "match_mac"],
            unique=False,
            sqlite_where=sa.text("match_mac IS NOT NULL"),
            postgresql_where=sa.text("match_mac IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_requests_status_page", ["tenant", "status", "posted_at", "id"], unique=False
        )

    op.add_column("targets", sa.Column("posted_at", sa.Double(), nullable=True))
    op.execute(
        "UPDATE targets SET posted_at ="
        " (SELECT posted_at FROM requests WHERE requests.id = targets.request_id)"
    )
    with op.batch_alter_table("targets", schema=None) as batch_op:
        batch_op.alter_column("posted_at", existing_type=sa.Double(), nullable=False)
        batch_op.create_index("ix_targets_page", ["model_id", "posted_at", "request_id"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("targets", schema=None) as batch_op:
        batch_op.drop_index("ix_targets_page")

    with op.batch_alter_table("requests", schema=None) as batch_op:
        batch_op.drop_index("ix_requests_status_page")
        batch_op.drop_index(
            "ix_requests_match",
            sqlite_where=sa.text("match_mac IS NOT NULL"),
            postgresql_where=sa.text("match_mac IS NOT NULL"),
        )
        batch_op.drop_index("ix_requests_due")

    op.drop_column("jobs", "start_at")
    op.drop_column("targets", "posted_at")

    op.drop_table("workers")
