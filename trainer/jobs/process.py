"""Detached processes and lock files: a job outlives the face that started it, and any process sees that it lives."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from ..atomic_files import explain_disk_full

_LAUNCHER = Path(__file__).parents[1] / "__main__.py"


def launch(words: Sequence[str], log_file: Path) -> subprocess.Popen[bytes]:
    """Start the command line with `words` in a session of its own; what it prints is appended to `log_file`.

    A thread waits for it: whoever started it need not, and an ended one does not stay in the process table (a zombie)
    for as long as its starter lives.
    """
    # A launcher file rather than `-m`: the package may have no importable name, as inside a host's extension folder.
    command = [sys.executable, str(_LAUNCHER), *words]
    apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
    with explain_disk_full(log_file), log_file.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **apart)
    threading.Thread(target=process.wait, name=f"mapo-wait-{process.pid}", daemon=True).start()
    return process


def is_locked(lock_file: Path) -> bool:
    """Whether a living process holds `lock_file`; the system lets go of it however that process ends."""
    try:
        # Asking takes the lock for a moment: another who asks just then must not be taken for a process at work.
        with FileLock(lock_file, timeout=0.05, poll_interval=0.01):
            return False
    except Timeout:
        return True
