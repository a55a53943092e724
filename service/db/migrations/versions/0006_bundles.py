"""Bundles of model versions"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "bundles",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("blob_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_bundles_blob_id")),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name=op.f("fk_bundles_version_id")),
        sa.PrimaryKeyConstraint("version_id", name=op.f("pk_bundles")),
    )


def downgrade() -> None:
    op.drop_table("bundles")
