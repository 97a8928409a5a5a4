"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "annotators",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_annotators"),
        sa.UniqueConstraint("name", name="uq_annotators_name"),
    )
    op.create_table(
        "datasets",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("held_out", sa.Double(), nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.CheckConstraint("kind IN ('pairs', 'comparison')", name="ck_datasets_kind_known"),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("name", name="uq_datasets_name"),
    )
    op.create_table(
        "pictures",
        sa.Column("id", _ID, nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("ending", sa.String(length=8), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("seed", sa.String(length=40), nullable=True),
        sa.Column("sampler", sa.String(length=200), nullable=True),
        sa.Column("model", sa.Text(), nullable=True),
        sa.Column("lora", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_pictures"),
        sa.UniqueConstraint("sha256", name="uq_pictures_sha256"),
    )
    op.create_table(
        "prompts",
        sa.Column("id", _ID, nullable=False),
        sa.Column("dataset_id", _ID, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("position", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_prompts_dataset_id"),
        sa.PrimaryKeyConstraint("id", name="pk_prompts"),
        sa.UniqueConstraint("dataset_id", "digest", name="uq_prompts_dataset_id_digest"),
    )
    op.create_index("ix_prompts_dataset_id_position", "prompts", ["dataset_id", "position"])
    op.create_table(
        "candidates",
        sa.Column("id", _ID, nullable=False),
        sa.Column("prompt_id", _ID, nullable=False),
        sa.Column("picture_id", _ID, nullable=False),
        sa.Column("arm", sa.String(length=20), nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["picture_id"], ["pictures.id"], name="fk_candidates_picture_id"),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name="fk_candidates_prompt_id"),
        sa.PrimaryKeyConstraint("id", name="pk_candidates"),
        sa.UniqueConstraint("prompt_id", "picture_id", name="uq_candidates_prompt_id_picture_id"),
    )
    op.create_index("ix_candidates_picture_id", "candidates", ["picture_id"])
    op.create_table(
        "pairs",
        sa.Column("id", _ID, nullable=False),
        sa.Column("dataset_id", _ID, nullable=False),
        sa.Column("prompt_id", _ID, nullable=False),
        sa.Column("first_id", _ID, nullable=False),
        sa.Column("second_id", _ID, nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("created", sa.Double(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("shuffle", sa.Double(), nullable=False),
        sa.Column("margin", sa.Double(), nullable=True),
        sa.Column("margin_run", sa.String(length=200), nullable=True),
        sa.Column("closeness", sa.Double(), nullable=True),
        sa.Column("answers", sa.Integer(), nullable=False),
        sa.Column("skips", sa.Integer(), nullable=False),
        sa.Column("both_bad", sa.Double(), nullable=False),
        sa.Column("votes", sa.Double(), nullable=False),
        sa.Column("votes_first", sa.Double(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_pairs_dataset_id"),
        sa.ForeignKeyConstraint(["first_id"], ["pictures.id"], name="fk_pairs_first_id"),
        sa.ForeignKeyConstraint(["prompt_id"], ["prompts.id"], name="fk_pairs_prompt_id"),
        sa.ForeignKeyConstraint(["second_id"], ["pictures.id"], name="fk_pairs_second_id"),
        sa.PrimaryKeyConstraint("id", name="pk_pairs"),
        sa.UniqueConstraint("prompt_id", "first_id", "second_id", name="uq_pairs_prompt_id_first_id_second_id"),
    )
    op.create_index("ix_pairs_queue", "pairs", ["dataset_id", "answers", "turn", "shuffle"])
    op.create_index("ix_pairs_useful", "pairs", ["dataset_id", "answers", "closeness"])
    has_preference = sa.text("votes > 0 AND both_bad < votes AND abs(votes_first * 2 - votes) > votes * 0.000000002")
    op.create_index(
        "ix_pairs_trainable",
        "pairs",
        ["dataset_id", "prompt_id"],
        sqlite_where=has_preference,
        postgresql_where=has_preference,
    )
    op.create_table(
        "judgements",
        sa.Column("id", _ID, nullable=False),
        sa.Column("pair_id", _ID, nullable=False),
        sa.Column("annotator_id", _ID, nullable=False),
        sa.Column("answer", sa.String(length=10), nullable=False),
        sa.Column("strength", sa.String(length=10), nullable=False),
        sa.Column("first_on_left", sa.Boolean(), nullable=False),
        sa.Column("share_left", sa.Double(), nullable=True),
        sa.Column("votes", sa.Double(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("purpose", sa.String(length=10), nullable=False),
        sa.Column("client", sa.String(length=64), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("undoes", _ID, nullable=True),
        sa.Column("created", sa.Double(), nullable=False),
        sa.CheckConstraint(
            "answer IN ('left', 'right', 'tie', 'both_bad', 'skip', 'undo')", name="ck_judgements_answer_known"
        ),
        sa.CheckConstraint(
            "purpose IN ('judge', 'repeat', 'ranking', 'compare', 'import')", name="ck_judgements_purpose_known"
        ),
        sa.CheckConstraint("strength IN ('slightly', 'clearly')", name="ck_judgements_strength_known"),
        sa.ForeignKeyConstraint(["annotator_id"], ["annotators.id"], name="fk_judgements_annotator_id"),
        sa.ForeignKeyConstraint(["pair_id"], ["pairs.id"], name="fk_judgements_pair_id"),
        sa.ForeignKeyConstraint(["undoes"], ["judgements.id"], name="fk_judgements_undoes"),
        sa.PrimaryKeyConstraint("id", name="pk_judgements"),
        sa.UniqueConstraint("client", "sequence", "pair_id", name="uq_judgements_client_sequence_pair_id"),
        sa.UniqueConstraint("undoes", name="uq_judgements_undoes"),
    )
    op.create_index("ix_judgements_annotator_id_id", "judgements", ["annotator_id", "id"])
    op.create_index("ix_judgements_pair_id", "judgements", ["pair_id"])
