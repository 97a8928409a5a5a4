"""Import progress: an import in a thread, its progress as lines for the page; it stops when nobody reads them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

from ...trainer.preferences.io.importer import ImportReport

_SECONDS = 0.4


class _Stop:
    """Becomes true; `import_pairs` checks it after every row."""

    def __init__(self) -> None:
        self.requested = False

    def __bool__(self) -> bool:
        return self.requested


def import_with_progress(run: Callable[..., ImportReport]) -> Generator[str, None, ImportReport]:
    """Lines about how far `run(tell=, stop=)` is; returns its report, and raises what it raised.

    Where nobody reads the lines any more (the page was closed), it stops after its current row.
    """
    stop = _Stop()
    progress: dict[str, Any] = {}
    ended: list[ImportReport | BaseException] = []

    def work() -> None:
        try:
            ended.append(run(tell=lambda event, **values: progress.update(values), stop=stop))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            total = f" of {progress['total']}" if progress.get("total") else ""
            yield f"Reading … {progress['done']}{total}" if progress.get("done") else "Reading …"
            thread.join(_SECONDS)
    finally:
        stop.requested = True
        thread.join()
    [result] = ended
    if isinstance(result, BaseException):
        raise result
    return result
