"""How does a test talk with a real ComfyUI that runs? Over HTTP and the websocket, as its page does."""

from __future__ import annotations

import ctypes
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

REPOSITORY = Path(__file__).parents[2]
PACK = "MaPO Studio v1.0"
"""The folder that our pack is cloned into: no name that Python could import."""
NOT_CLONED = ("__pycache__", "tests", "benchmarks", "docs", "workspace", "shared", "build", "dist")
PATIENCE = "PATIENCE_SECONDS = 30.0\n"
TINY_PACK = Path(__file__).with_name("tiny_pack")

Prompt = dict[str, Any]


class Failed(Exception):
    """A prompt did not come to its end. Its text is the node's own; `node` is the id of the node."""

    def __init__(self, text: str, node: str = "") -> None:
        super().__init__(text)
        self.node = node


class Interrupted(Failed):
    """A prompt was stopped by the person."""


class RunningComfyUI:
    """One server with this pack. Use as a context manager, or call start and stop."""

    def __init__(
        self,
        python: Path,
        comfyui: Path,
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """folder: ComfyUI's base directory with its models, its user's files and what it paints; filled if need be."""
        self.python, self.comfyui, self.folder = python, comfyui, folder
        self.log_file = folder / "comfyui.log"
        self.port = _free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._environment, self._arguments = environment or {}, arguments
        self._process: subprocess.Popen | None = None

    @property
    def workspace(self) -> Path:
        """Where the pack keeps its judgements and runs, unless the settings say otherwise."""
        return self.folder / "user" / "mapo_studio"

    @property
    def pack(self) -> Path:
        return self.folder / "custom_nodes" / PACK

    def start(self) -> RunningComfyUI:
        """Returns when it answers. Raises Failed, with the end of its log, if it does not within five minutes."""
        if not self.pack.exists():
            # A copy: what is edited meanwhile does not reach a server that runs, and what it writes is seen.
            shutil.copytree(REPOSITORY, self.pack, ignore=_not_cloned)
            (self.folder / "custom_nodes" / "tiny_pack").symlink_to(TINY_PACK)
            self._have_less_patience()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self.python, "main.py", "--cpu", "--base-directory", self.folder, "--port", str(self.port)),
                    *("--database-url", f"sqlite:///{self.folder / 'comfyui.db'}", *self._arguments),
                ],
                cwd=self.comfyui,
                env={
                    **os.environ,
                    "PYTHONDONTWRITEBYTECODE": "1",  # the pack is this checkout
                    "OMP_NUM_THREADS": "1",  # the tiny base gains nothing from a second one
                    "HF_HUB_OFFLINE": "1",
                    **self._environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        until = time.monotonic() + 300
        while time.monotonic() < until and self._process.poll() is None:
            if self._answers():
                return self
            time.sleep(0.1)
        self.kill()
        raise Failed(f"ComfyUI did not start:\n{self.log()[-3000:]}")

    def _have_less_patience(self) -> None:
        """A pick that no page is open for waits for one: for 8 seconds in tests, and half a minute for people."""
        node = self.pack / "comfy_nodes" / "nodes" / "pick.py"
        code = node.read_text(encoding="utf-8")
        assert PATIENCE in code
        node.write_text(code.replace(PATIENCE, "PATIENCE_SECONDS = 8.0\n"), encoding="utf-8")

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/queue")[0] == 200
        except OSError:
            return False

    def stop(self) -> None:
        """As Ctrl+C does."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """As losing power does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)

    def __enter__(self) -> RunningComfyUI:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """(status, what was answered), whatever the status."""
        request = urllib.request.Request(self.address + path, body, dict(headers or {}), method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def get(self, path: str, **query: Any) -> Any:
        """The JSON at `path`. Raises Failed with what was answered for any other status than 200."""
        return self._json("GET", path + (f"?{urlencode(query)}" if query else ""))

    def post(self, path: str, data: Any = None) -> Any:
        """What is answered to `data`, JSON both ways. Raises as `get` does."""
        return self._json("POST", path, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def _json(self, method: str, path: str, *request: Any) -> Any:
        status, said = self.request(method, path, *request)
        if status != 200:
            raise Failed(f"{method} {path}: {status} {said.decode(errors='replace')}")
        return json.loads(said) if said else None

    def queue(self, prompt: Prompt, page: str = "") -> str:
        """The id of the prompt that now waits. page: a client id, see `listen`. Raises Failed if it is not valid."""
        return self.post("/prompt", {"prompt": prompt, **({"client_id": page} if page else {})})["prompt_id"]

    def wait(self, prompt_id: str, seconds: float = 120) -> dict[str, Any]:
        """The prompt's entry in the history: ["outputs"][node id][...]. Raises Failed, Interrupted or TimeoutError."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if entry := self.get(f"/history/{prompt_id}").get(prompt_id):
                for event, data in entry["status"]["messages"]:
                    if event == "execution_error":
                        raise Failed(data["exception_message"], data["node_id"])
                    if event == "execution_interrupted":
                        raise Interrupted("interrupted", data["node_id"])
                return entry
            time.sleep(0.05)
        raise TimeoutError(f"not done after {seconds} s; the log ends with:\n{self.log()[-2000:]}")

    def run(self, prompt: Prompt, page: str = "", seconds: float = 120) -> dict[str, Any]:
        """Queue it and wait for it."""
        return self.wait(self.queue(prompt, page), seconds)

    def interrupt(self) -> None:
        """The button of the page."""
        self.request("POST", "/interrupt", b"{}", {"Content-Type": "application/json"})

    def pictures(self, entry: Mapping[str, Any], node: str) -> list[Image.Image]:
        """What that node showed or saved."""
        return [Image.open(io.BytesIO(self.file(one))) for one in entry["outputs"][node]["images"]]

    def file(self, shown: Mapping[str, str]) -> bytes:
        """The bytes of one of a node's outputs: {"filename", "subfolder", "type"}."""
        status, content = self.request("GET", f"/view?{urlencode(shown, quote_via=quote)}")
        assert status == 200, f"{shown}: {status}"
        return content

    @contextmanager
    def listen(self, page: str) -> Iterator[Page]:
        """Be the page with that client id: what is sent to it, and to all, is kept."""
        with connect(f"ws://127.0.0.1:{self.port}/ws?clientId={quote(page)}", max_size=None) as connection:
            heard = Page(page)
            thread = threading.Thread(target=heard.keep, args=(connection,), daemon=True)
            thread.start()
            heard.wait_for("status")
            yield heard
        thread.join(10)


class Page:
    """What a page was sent: [(event, data)]; a preview picture comes as ("preview", bytes)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[tuple[str, Any]] = []
        self._news = threading.Condition()

    def keep(self, connection: Any) -> None:
        try:
            for said in connection:
                event, data = "preview", said
                if isinstance(said, str):
                    message = json.loads(said)
                    event, data = message["type"], message["data"]
                with self._news:
                    self.messages.append((event, data))
                    self._news.notify_all()
        except ConnectionClosed:  # a server that was killed says no goodbye
            pass

    def all_of(self, event: str) -> list[Any]:
        """What came with that event, in order."""
        with self._news:
            return [data for name, data in self.messages if name == event]

    def wait_for(self, event: str, where: Callable[[Any], bool] = lambda data: True, seconds: float = 60) -> Any:
        """The first such message, come already or to come. Raises TimeoutError, with the events that came instead."""
        found: list[Any] = []

        def look() -> bool:
            found[:] = [data for name, data in self.messages if name == event and where(data)]
            return bool(found)

        with self._news:
            if not self._news.wait_for(look, seconds):
                raise TimeoutError(f"no {event} after {seconds} s, but {[name for name, _ in self.messages]}")
        return found[0]

    def forget(self) -> None:
        """Drop what came so far, so that `wait_for` waits for something new."""
        with self._news:
            self.messages.clear()


def _not_cloned(folder: str, names: list[str]) -> list[str]:
    if Path(folder) == REPOSITORY:
        return [name for name in names if name in NOT_CLONED or name.startswith(".") or name.endswith(".egg-info")]
    return ["__pycache__"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _die_with_parent() -> None:
    """In the child, before it becomes ComfyUI: a test session that is killed leaves no server behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
