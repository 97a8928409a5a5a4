"""Captions of candidates, judgements that were assumed, and an index of rankings."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_PURPOSES = "purpose IN ('judge', 'repeat', 'ranking', 'compare', 'import', 'assumed')"


def upgrade() -> None:
    op.add_column("candidates", sa.Column("caption", sa.Text(), nullable=True))
    op.add_column("pairs", sa.Column("assumed", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("judgements") as table:
        table.drop_constraint("ck_judgements_purpose_known", type_="check")
        table.create_check_constraint("ck_judgements_purpose_known", _PURPOSES)
    is_ranking = sa.text("purpose = 'ranking'")
    op.create_index(
        "ix_judgements_ranking", "judgements", ["pair_id"], sqlite_where=is_ranking, postgresql_where=is_ranking
    )
