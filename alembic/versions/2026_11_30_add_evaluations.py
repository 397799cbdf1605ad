"""add evaluations"""

import sqlalchemy as sa

from alembic import op

revision = "3e9a6c52d1f8"
down_revision = "c4e1a7d95f20"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("dataset_sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_evaluations_job_id_jobs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        sa.UniqueConstraint("job_id", name=op.f("uq_evaluations_job_id")),
    )
    op.create_index("ix_evaluations_list", "evaluations", ["tenant_id", "id"])
    op.create_index("ix_evaluations_uses", "evaluations", ["tenant_id", "dataset_sha256"])


def downgrade() -> None:
    op.drop_table("evaluations")
