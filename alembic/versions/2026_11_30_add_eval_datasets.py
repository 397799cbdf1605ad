"""add eval datasets of jobs"""

import sqlalchemy as sa

from alembic import op

revision = "a94d17c3b60e"
down_revision = "9d4b6e1f07a3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_eval_datasets",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("dataset_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_job_eval_datasets_job_id_jobs"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"],
            ["datasets.id"],
            name=op.f("fk_job_eval_datasets_dataset_id_datasets"),
        ),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_job_eval_datasets")),
    )
    op.create_index(op.f("ix_job_eval_datasets_dataset_id"), "job_eval_datasets", ["dataset_id"])


def downgrade() -> None:
    op.drop_table("job_eval_datasets")
