"""How does an import tell the page how far it is? It runs in a thread, and is asked to stop when nobody waits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

from ...trainer.preferences.io.importer import ImportReport

_SECONDS = 0.4


class _Stop:
    """Becomes true; `import_pairs` asks it after every row."""

    def __init__(self) -> None:
        self.asked = False

    def __bool__(self) -> bool:
        return self.asked


def watched(run: Callable[..., ImportReport]) -> Generator[str, None, ImportReport]:
    """Lines about how far `run(tell=, stop=)` is; returns its report, and raises what it raised.

    Where the lines are not asked for any more (the page was closed), it stops after its current row.
    """
    stop = _Stop()
    told: dict[str, Any] = {}
    ended: list[ImportReport | BaseException] = []

    def work() -> None:
        try:
            ended.append(run(tell=lambda event, **values: told.update(values), stop=stop))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            total = f" of {told['total']}" if told.get("total") else ""
            yield f"Reading … {told['done']}{total}" if told.get("done") else "Reading …"
            thread.join(_SECONDS)
    finally:
        stop.asked = True
        thread.join()
    [result] = ended
    if isinstance(result, BaseException):
        raise result
    return result
