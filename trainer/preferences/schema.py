"""The database schema: which tables hold a workspace's preferences?

The names in Python are those of the field; a few columns and tables keep an older name in the database.

A judgement is never changed or deleted: an undo is a new row that names the row it takes back. Everything else that
says what people prefer (the vote columns of `Pair`) is a sum over judgements, kept beside the pair because a queue over
a million pairs cannot add them up each time; the tests recount it.

Times are seconds since 1970. Seeds are text: ComfyUI's do not fit a signed 64-bit column.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ANSWERS = ("left", "right", "tie", "both_bad", "skip")
STRENGTHS = ("slightly", "clearly")
PURPOSES = ("judge", "repeat", "ranking", "compare", "import", "assumed")
KINDS = ("pairs", "comparison")

HAS_PREFERENCE = "votes > 0 AND both_bad < votes AND abs(votes_first * 2 - votes) > votes * 0.000000002"
"""Of a pair, what `preference.undecided` says, in SQL: a condition of the index that counts them."""

IS_RANKING = "purpose = 'ranking'"
"""Of a judgement, in SQL: a condition of the index that finds them."""

# SQLite counts rows up by itself only in a column of exactly this type.
_Id = BigInteger().with_variant(Integer, "sqlite")


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{column}_known")


class Table(DeclarativeBase):
    # Releases of SQLAlchemy disagree on what a float is; in single precision no time would be exact.
    type_annotation_map = {float: Double}  # noqa: RUF012 -- SQLAlchemy's way
    # Every constraint has a name: Alembic cannot change one without.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Dataset(Table):
    """Pairs that are judged and trained on together; or a comparison of base and LoRA, which is judged likewise."""

    __tablename__ = "datasets"
    __table_args__ = (_one_of("kind", KINDS),)

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    kind: Mapped[str] = mapped_column(String(20), default="pairs")
    created: Mapped[float]
    held_out: Mapped[float] = mapped_column(default=0.1)
    """Share of prompts that are never trained on, in [0, 1)."""
    about: Mapped[str] = mapped_column(Text, default="")
    """JSON. Of a comparison: run, base, lora (file and sha256), strength, and the dataset it was fed back into."""


class Prompt(Table):
    __tablename__ = "prompts"
    __table_args__ = (UniqueConstraint("dataset_id", "digest"), Index(None, "dataset_id", "split_hash"))

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 of the text: a prompt may be longer than what PostgreSQL indexes."""
    text: Mapped[str] = mapped_column(Text)
    split_hash: Mapped[float] = mapped_column("position", key="split_hash")
    """In [0, 1), a hash of the text. Held out where it is below the dataset's share: stable however the set grows."""


class ImageRecord(Table):
    """One image file in images/, named by its content, and what is known of how it was made."""

    __tablename__ = "pictures"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    ending: Mapped[str] = mapped_column(String(8))
    """With its dot: .png"""
    width: Mapped[int]
    height: Mapped[int]
    """In pixels, as it is shown: EXIF orientation applied."""
    created: Mapped[float]
    seed: Mapped[str | None] = mapped_column(String(40))
    sampler: Mapped[str | None] = mapped_column(String(200))
    model: Mapped[str | None] = mapped_column(Text)
    lora: Mapped[str | None] = mapped_column(Text)
    source: Mapped[str | None] = mapped_column(Text)
    """Where it came from: a file's path, or a file and a row in it."""


class Candidate(Table):
    """An image that was made for a prompt."""

    __tablename__ = "candidates"
    __table_args__ = (UniqueConstraint("prompt_id", "picture_id"), Index(None, "picture_id"))

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"))
    picture_id: Mapped[int] = mapped_column(ForeignKey("pictures.id"))
    arm: Mapped[str | None] = mapped_column(String(20))
    """In a comparison: "base" or "lora"."""
    caption: Mapped[str | None] = mapped_column(Text)
    """The image's own caption, where it differs from the prompt: the rejected image is trained under it."""
    created: Mapped[float]


class Pair(Table):
    """Two candidates of one prompt. `first` is the image whose sha256 sorts first, so that no pair is there twice."""

    __tablename__ = "pairs"
    __table_args__ = (
        UniqueConstraint("prompt_id", "first_id", "second_id"),
        Index("ix_pairs_queue", "dataset_id", "answers", "round", "shuffle"),
        Index("ix_pairs_useful", "dataset_id", "answers", "abs_margin"),
        Index(
            "ix_pairs_trainable",
            "dataset_id",
            "prompt_id",
            sqlite_where=text(HAS_PREFERENCE),
            postgresql_where=text(HAS_PREFERENCE),
        ),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"))
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompts.id"))
    first_id: Mapped[int] = mapped_column(ForeignKey("pictures.id"))
    second_id: Mapped[int] = mapped_column(ForeignKey("pictures.id"))
    source: Mapped[str] = mapped_column(Text, default="")
    """Who put it there: "" for candidates of this workspace, "import: ...", "comparison: ...", "targets: ..."."""
    created: Mapped[float]
    round: Mapped[int] = mapped_column("turn", key="round")
    """Index of the pair within its prompt, from 0: judging round by round spreads over the prompts."""
    shuffle: Mapped[float]
    """In [0, 1), a hash of the pair: the order within a round, the same for everyone."""
    margin: Mapped[float | None]
    """Margin of first over second under the LoRA of `margin_run`; positive: the model prefers the first."""
    margin_run: Mapped[str | None] = mapped_column(String(200))
    abs_margin: Mapped[float | None] = mapped_column("closeness", key="abs_margin")
    """abs(margin): where it is small, a judgement teaches most."""

    answers: Mapped[int] = mapped_column(default=0)
    """Judgements that stand, all but skips."""
    skips: Mapped[int] = mapped_column(default=0)
    both_bad: Mapped[float] = mapped_column(default=0.0)
    """Votes that neither is any good."""
    votes: Mapped[float] = mapped_column(default=0.0)
    """Votes that say something about which is better: left, right and tie."""
    votes_first: Mapped[float] = mapped_column(default=0.0)
    """Those for `first`; a tie is half a vote."""
    weight: Mapped[float] = mapped_column(default=0.0)
    """The largest weight among the judgements behind `votes`."""
    assumed: Mapped[bool] = mapped_column(default=False)
    """Whether no person is behind them: one image is wanted, the other was generated to be rejected."""


class Annotator(Table):
    __tablename__ = "annotators"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)


class Judgement(Table):
    """One person's answer to one pair, or the taking back of one (`undoes`). Append-only."""

    __tablename__ = "judgements"
    __table_args__ = (
        # A browser that got no reply sends again: what it already said must not count twice. A ranking is one
        # submission about several pairs.
        UniqueConstraint("client", "sequence", "pair_id"),
        Index(None, "pair_id"),
        # What somebody answered since the last look, see annotator_history.py.
        Index(None, "annotator_id", "id"),
        Index("ix_judgements_ranking", "pair_id", sqlite_where=text(IS_RANKING), postgresql_where=text(IS_RANKING)),
        _one_of("answer", (*ANSWERS, "undo")),
        _one_of("strength", STRENGTHS),
        _one_of("purpose", PURPOSES),
    )

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    pair_id: Mapped[int] = mapped_column(ForeignKey("pairs.id"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotators.id"))
    answer: Mapped[str] = mapped_column(String(10))
    strength: Mapped[str] = mapped_column(String(10), default="clearly")
    first_on_left: Mapped[bool]
    """Which side the pair's first image was shown on."""
    share_left: Mapped[float | None]
    """Share of the votes for the left image: 1, 0 or one half, or what an imported source says; null: no vote."""
    votes: Mapped[float] = mapped_column(default=1.0)
    """How many people's votes this is: 1, but for imported counts."""
    weight: Mapped[float] = mapped_column(default=1.0)
    """What it weighs in training."""
    seconds: Mapped[float | None]
    """From the pair being visible to the answer."""
    purpose: Mapped[str] = mapped_column(String(10), default="judge")
    """"assumed": nobody judged, see `Pair.assumed`; it counts until somebody does."""
    client: Mapped[str] = mapped_column(String(64))
    """The page, process or import that it came from."""
    sequence: Mapped[int] = mapped_column(BigInteger)
    """Its running number there."""
    undoes: Mapped[int | None] = mapped_column(ForeignKey("judgements.id"), unique=True)
    created: Mapped[float]
