"""A process that judges without end and says each number once it is kept: `judging_child.py WORKSPACE URL CLIENT FROM`.

URL may be empty. Pair by pair, in turn; ends when its standard output is closed, or is killed.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mapo_studio.trainer.preferences.judgements import Answer, answer
from mapo_studio.trainer.preferences.schema import ImageRecord, Pair
from mapo_studio.trainer.preferences.store import open_store
from sqlalchemy import select


def main(workspace: str, url: str, client: str, first: str, count: str = "1000000") -> None:
    store = open_store(Path(workspace), url or None)
    with store.reading() as session:
        found = select(Pair.id, ImageRecord.sha256).join(ImageRecord, ImageRecord.id == Pair.first_id).order_by(Pair.id)
        pairs = session.execute(found).all()
    for sequence in range(int(first), int(first) + int(count)):
        pair, left = pairs[sequence % len(pairs)]  # the same answer under the same number, in every process
        with store.writing() as session:
            new = answer(session, client, Answer(pair, left, "left", "clearly", 1.0, client, sequence))
        print(sequence, int(new), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
