"""Dataset names: what the nodes' drop-down lists offer.

ComfyUI asks each node for its lists on its event loop, at its start and whenever a page opens. So they are answered
from memory, and read anew in a thread; the pages are told where that gave others.
"""

from __future__ import annotations

import logging
import threading

from . import host

log = logging.getLogger(__name__)

_known: list[str] = []
_reading = threading.Lock()


def datasets() -> list[str]:
    """The names of the datasets, as last read."""
    return list(_known)


def refresh() -> None:
    """Read the names, in a thread of its own."""
    threading.Thread(target=_read, name="mapo-choices", daemon=True).start()


def _read() -> None:
    from ...trainer.errors import UserError
    from ...trainer.preferences.datasets import list_datasets
    from . import settings

    with _reading:
        try:
            if not settings.workspace().is_dir():  # nothing was kept yet: reading must not make a workspace
                return
            with settings.store().reading() as session:
                names = [one.name for one in list_datasets(session)]
        except UserError as error:
            log.warning("MaPO: the datasets cannot be read: %s", error)
            return
        if names != _known:
            _known[:] = names
            host.tell_pages("mapo.datasets", {"datasets": names})
