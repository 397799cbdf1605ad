"""add uploads in parts"""

import sqlalchemy as sa

from alembic import op

revision = "c4e1a7d95f20"
down_revision = "b7d41f0e92ac"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "dataset_uploads",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant_id", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=True),
        sa.Column("name", sa.String(length=128), nullable=True),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("finish_id", sa.String(length=40), nullable=True),
        sa.Column("finish_expires_at", sa.BigInteger(), nullable=True),
        sa.Column("dataset_id", sa.String(length=40), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint(
            "status IN ('open', 'finishing', 'finished')", name=op.f("ck_dataset_uploads_status")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_dataset_uploads")),
    )
    op.create_index("ix_dataset_uploads_list", "dataset_uploads", ["tenant_id", "id"])
    op.create_index(op.f("ix_dataset_uploads_expires_at"), "dataset_uploads", ["expires_at"])
    op.create_table(
        "dataset_upload_parts",
        sa.Column("upload_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("blob_id", sa.String(length=40), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["dataset_uploads.id"],
            name=op.f("fk_dataset_upload_parts_upload_id_dataset_uploads"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["blob_id"], ["blobs.id"], name=op.f("fk_dataset_upload_parts_blob_id_blobs")
        ),
        sa.PrimaryKeyConstraint("upload_id", "number", name=op.f("pk_dataset_upload_parts")),
    )
    op.create_index(op.f("ix_dataset_upload_parts_blob_id"), "dataset_upload_parts", ["blob_id"])


def downgrade() -> None:
    op.drop_table("dataset_upload_parts")
    op.drop_table("dataset_uploads")
