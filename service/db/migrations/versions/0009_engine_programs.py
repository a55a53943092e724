"""What serves a model version on other engines than torch"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "engine_programs",
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("blob_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["blob_id"], ["blobs.id"], name=op.f("fk_engine_programs_blob_id_blobs")),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_versions.id"], name=op.f("fk_engine_programs_version_id_model_versions")
        ),
        sa.PrimaryKeyConstraint("version_id", "kind", name=op.f("pk_engine_programs")),
    )


def downgrade() -> None:
    op.drop_table("engine_programs")
