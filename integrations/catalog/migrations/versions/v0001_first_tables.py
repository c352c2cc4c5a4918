"""Images, bundles and runs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.String(64)
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "images",
        sa.Column("key", KEY, nullable=False),
        sa.Column("height", sa.Integer),
        sa.Column("width", sa.Integer),
        sa.Column("bytes", sa.Integer),
        sa.PrimaryKeyConstraint("key", name="pk_images"),
    )
    op.create_table(
        "image_names",
        sa.Column("product", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("image_key", KEY, nullable=False),
        sa.Column("lot", sa.String),
        sa.Column("uri", sa.String, nullable=False),
        sa.PrimaryKeyConstraint("product", "name", "image_key", name="pk_image_names"),
        sa.ForeignKeyConstraint(["image_key"], ["images.key"], name="fk_image_names_image_key"),
    )
    op.create_index("ix_image_names_image_key", "image_names", ["image_key"])
    _bundles()
    _runs()


def _bundles() -> None:
    op.create_table(
        "bundles",
        sa.Column("id", KEY, nullable=False),
        sa.Column("product", sa.String, nullable=False),
        sa.Column("parent", KEY),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("content", sa.JSON, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_bundles"),
    )
    op.create_index("ix_bundles_product", "bundles", ["product"])
    champion = sa.text("state = 'champion'")
    op.create_index(
        "ix_bundles_champion", "bundles", ["product"], unique=True, sqlite_where=champion, postgresql_where=champion
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", KEY, nullable=False),
        sa.Column("product", sa.String, nullable=False),
        sa.Column("bundle_id", KEY, nullable=False),
        sa.Column("profile", sa.String, nullable=False),
        sa.Column("models", sa.JSON, nullable=False),
        sa.Column("code", sa.String, nullable=False),
        sa.Column("source", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("created", MOMENT, nullable=False),
        sa.Column("finished", MOMENT),
        sa.Column("labelled", sa.Integer, nullable=False),
        sa.Column("reused", sa.Integer, nullable=False),
        sa.Column("quarantined", sa.Integer, nullable=False),
        sa.Column("regions", sa.Integer, nullable=False),
        sa.Column("model_calls", sa.Integer, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.ForeignKeyConstraint(["bundle_id"], ["bundles.id"], name="fk_runs_bundle_id"),
    )
    op.create_index("ix_runs_product", "runs", ["product"])
    op.create_table(
        "run_images",
        sa.Column("run_id", KEY, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("image_key", KEY),
        sa.Column("names", sa.JSON, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("reason", sa.String, nullable=False),
        sa.Column("score", sa.Double),
        sa.Column("regions", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("run_id", "name", name="pk_run_images"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_images_run_id"),
        sa.ForeignKeyConstraint(["image_key"], ["images.key"], name="fk_run_images_image_key"),
    )
    op.create_index("ix_run_images_image_key", "run_images", ["image_key"])


def downgrade() -> None:
    """Drop the tables, those that others refer to last."""
    for table in ("run_images", "runs", "bundles", "image_names", "images"):
        op.drop_table(table)
