"""add needs gpu"""

import sqlalchemy as sa

from alembic import op

revision = "b41c7e05d9f2"
down_revision = "a8d3b61f4c07"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs", sa.Column("needs_gpu", sa.Boolean(), server_default=sa.false(), nullable=False)
    )


def downgrade() -> None:
    op.drop_column("jobs", "needs_gpu")
