"""Kept predictions, and shadows of aliases"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

INTEGER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FLOAT = sa.Float(precision=53)


def upgrade() -> None:
    op.create_table(
        "predictions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("ref", sa.String(), nullable=False),
        sa.Column("parameters", sa.JSON(), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("pictures", INTEGER, nullable=False),
        sa.Column("bytes", INTEGER, nullable=False),
        sa.Column("labelled", sa.Boolean(), nullable=False),
        sa.Column("created_at", FLOAT, nullable=False),
        sa.ForeignKeyConstraint(["version_id"], ["model_versions.id"], name=op.f("fk_predictions_version_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_predictions")),
    )
    op.create_index(op.f("ix_predictions_version_id"), "predictions", ["version_id"])
    op.create_index("ix_predictions_retention", "predictions", ["labelled", "id", "pictures", "bytes"])
    op.create_table(
        "prediction_items",
        sa.Column("prediction_id", sa.String(), nullable=False),
        sa.Column("position", INTEGER, autoincrement=False, nullable=False),
        sa.Column("image", sa.String(64), nullable=True),
        sa.Column("label", sa.String(), nullable=True),
        sa.Column("probability", FLOAT, nullable=True),
        sa.Column("decision", sa.String(), nullable=True),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("truth", sa.String(), nullable=True),
        sa.Column("labelled_at", FLOAT, nullable=True),
        sa.ForeignKeyConstraint(["prediction_id"], ["predictions.id"], name=op.f("fk_prediction_items_prediction_id")),
        sa.PrimaryKeyConstraint("prediction_id", "position", name=op.f("pk_prediction_items")),
    )
    op.create_index(op.f("ix_prediction_items_image"), "prediction_items", ["image"])
    op.create_index(op.f("ix_prediction_items_truth"), "prediction_items", ["truth"])
    op.create_table(
        "shadows",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("candidate_id", sa.String(), nullable=False),
        sa.Column("against_id", sa.String(), nullable=False),
        sa.Column("share", FLOAT, nullable=False),
        *(sa.Column(name, INTEGER, nullable=False) for name in ("n", "agreed", "dropped", "failed")),
        sa.Column("difference", FLOAT, nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("created_at", FLOAT, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_shadows_model_id")),
        sa.ForeignKeyConstraint(["candidate_id"], ["model_versions.id"], name=op.f("fk_shadows_candidate_id")),
        sa.ForeignKeyConstraint(["against_id"], ["model_versions.id"], name=op.f("fk_shadows_against_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shadows")),
        sa.UniqueConstraint("model_id", "alias", name=op.f("uq_shadows_model_id_alias")),
    )
    op.create_table(
        "shadow_disagreements",
        sa.Column("shadow_id", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("candidate", sa.String(), nullable=False),
        sa.Column("count", INTEGER, nullable=False),
        sa.ForeignKeyConstraint(
            ["shadow_id"], ["shadows.id"], name=op.f("fk_shadow_disagreements_shadow_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("shadow_id", "label", "candidate", name=op.f("pk_shadow_disagreements")),
    )


def downgrade() -> None:
    op.drop_table("shadow_disagreements")
    op.drop_table("shadows")
    op.drop_table("prediction_items")
    op.drop_table("predictions")
