"""How does a test wait until what was said on a page has arrived?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from mapo_studio.trainer.preferences.schema import Judgement
from mapo_studio.trainer.preferences.store import open_store
from sqlalchemy import func, select


def standing(workspace: Path) -> int:
    """Judgements that were not taken back. (A pair that comes again for a check is judged once more.)"""
    with open_store(workspace).reading() as session:
        undone = select(Judgement.undoes).where(Judgement.undoes.is_not(None))
        kept = Judgement.answer != "undo", Judgement.id.not_in(undone)
        return session.scalar(select(func.count()).select_from(Judgement).where(*kept))


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Fails the test where it takes longer."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
