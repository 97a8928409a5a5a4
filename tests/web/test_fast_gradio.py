"""Gradio as the studio imports it."""

from __future__ import annotations

import subprocess
import sys

import pytest

COUNTED = """
import ast, gc, inspect
read = []
segment = ast.get_source_segment
ast.get_source_segment = lambda *given, **more: read.append(1) or segment(*given, **more)
{how}
import gradio
assert inspect.getfile(gradio.Button).endswith("button.py")
assert gc.isenabled()
print(len(read))
"""


def sources_read(how: str) -> int:
    """How many sources of components a new process has read that imports Gradio so."""
    done = subprocess.run([sys.executable, "-c", COUNTED.format(how=how)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


@pytest.mark.slow
def test_no_stub_file_is_made_and_all_else_is_as_ever():
    plain = sources_read("")
    assert plain > 50, "Gradio reads no sources any more: web/server/fast_gradio.py can go"
    assert sources_read("from mapo_studio.web.server.fast_gradio import import_gradio; import_gradio()") < plain / 10
