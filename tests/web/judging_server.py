"""A small server of the judging contract, in memory, that can be slow, away or wrong, and counts what it is told."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

ELEMENT = Path(__file__).parents[2] / "web" / "judge"
PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<style>body {{ margin: 0 }} mapo-judge {{ height: 100dvh }}</style>
<script type="module" src="/judge/mapo-judge.js"></script>{body}"""
ONE = '<mapo-judge api="/api" dataset="cats"></mapo-judge>'


@cache
def picture(width: int, height: int, seed: int) -> bytes:
    """A JPEG; as noise, 1024 px are about 1 MB, which is what a painted PNG has."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(noise).save(held, "JPEG", quality=90)
    return held.getvalue()


class JudgingServer(ThreadingHTTPServer):
    """Serves pairs 1, 2, 3 ... whose prompts say their numbers; `body` is what the page holds."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.body = ONE
        self.size = (64, 48)
        self.pairs = 1000
        self.group_size = 4
        self.latency = 0.0
        self.prompt = "prompt of pair {}"
        self.away: str | None = None
        """None, or what happens to the routes of the api: "drop", "500", or "401"."""
        self.missing: set[str] = set()
        self.refuse: set[int] = set()
        self.broken_batch: set[int] = set()
        self.answers: list[dict] = []
        self.rankings: list[dict] = []
        self.undone: list[tuple[str, int]] = []
        self.heard = 0
        """Submissions that arrived, each as often as it was sent."""
        self.order: list[tuple[str, int]] = []
        self.seen: set[tuple[str, int]] = set()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"

    def standing(self) -> list[dict]:
        """Answers and rankings that nobody took back, in order of arrival."""
        said = [*self.answers, *self.rankings]
        return [one for one in said if (one["client"], one["sequence"]) not in self.undone]

    def handle_error(self, request, client_address) -> None:
        # A browser that closes a connection is no news.
        if not isinstance(sys.exc_info()[1], OSError | ValueError):
            super().handle_error(request, client_address)

    def next(self, count: int, exclude: set[int]) -> dict:
        done = {one["pair"] for one in self.standing() if "pair" in one}
        free = [pair for pair in range(1, self.pairs + 1) if pair not in done]
        chosen = [pair for pair in free if pair not in exclude][:count]
        return {"pairs": [self.pair(pair) for pair in chosen], "waiting": len(free)}

    def pair(self, number: int) -> dict:
        sides = [{"id": f"{number:04}{side}", "width": self.size[0], "height": self.size[1]} for side in "ab"]
        return {
            "pair": number,
            "prompt": self.prompt.format(number),
            "purpose": "judge",
            "left": sides[number % 2],
            "right": sides[1 - number % 2],
        }

    def groups(self, count: int, exclude: set[int]) -> dict:
        done = {one["prompt"] for one in self.standing() if "prompt" in one}
        free = [number for number in range(1, self.pairs + 1) if number not in done]
        chosen = [number for number in free if number not in exclude][:count]
        size = {"width": self.size[0], "height": self.size[1]}
        groups = [
            {
                "prompt": number,
                "text": self.prompt.format(number),
                "pictures": [{"id": f"{number:04}{which}", **size} for which in "abcdefghi"[: self.group_size]],
            }
            for number in chosen
        ]
        return {"groups": groups, "waiting": len(free)}

    def keep(self, kind: str, said: list[dict]) -> dict:
        reply: dict[str, list] = {"stored": [], "refused": []}
        for one in said:
            self.heard += 1
            if one.get("pair") in self.refuse:
                reply["refused"].append({"sequence": one["sequence"], "why": "This pair is gone."})
                continue
            reply["stored"].append(one["sequence"])
            if self._is_new(one):
                (self.answers if kind == "answers" else self.rankings).append(one)
        return reply

    def undo(self, one: dict) -> dict:
        self.heard += 1
        known = {(other["client"], other["sequence"]) for other in self.standing()}
        target = (one["client"], one["undoes"])
        if self._is_new(one) and target in known:
            self.undone.append(target)
            return {"undone": True}
        return {"undone": False}

    def statistics(self) -> dict:
        judged = sum(one.get("answer") != "skip" for one in self.standing())
        sentence = "You would say the same again of 91 % of pairs, and judge 24 a minute."
        return {"judged": judged, "waiting": self.pairs - judged, "pairs": self.pairs, "sentence": sentence}

    def _is_new(self, one: dict) -> bool:
        key = (one["client"], one["sequence"])
        if key in self.seen:
            return False
        self.seen.add(key)
        self.order.append(key)
        return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: JudgingServer

    def setup(self) -> None:
        super().setup()
        # Without it small replies wait for the browser's delayed acknowledgement.
        self.disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/":
            self._reply(200, PAGE.format(body=self.server.body).encode(), "text/html")
        elif url.path.startswith("/judge/"):
            self._reply(200, (ELEMENT / Path(url.path).name).read_bytes(), "text/javascript")
        elif not self._is_away():
            self._api(url.path, {name: values[0] for name, values in parse_qs(url.query).items()})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_away():
            return
        time.sleep(self.server.latency)
        with self.server.lock:
            route = self.path.rpartition("/")[2]
            if {one.get("pair") for one in body.get("answers", [])} & self.server.broken_batch:
                self._json(422, {"detail": ["a field is wrong"]})
            elif route == "undo":
                self._json(200, self.server.undo(body))
            else:
                self._json(200, self.server.keep(route, body[route]))

    def _api(self, path: str, query: dict[str, str]) -> None:
        time.sleep(self.server.latency)
        route, _, rest = path.removeprefix("/api/").partition("/")
        exclude = {int(number) for number in query.get("exclude", "").split(",") if number}
        if route == "picture":
            self._picture(rest)
        elif query.get("dataset") == "nowhere":
            self._json(404, {"error": "There is no dataset nowhere."})
        else:
            with self.server.lock:
                replies = {
                    "next": lambda: self.server.next(int(query["count"]), exclude),
                    "groups": lambda: self.server.groups(int(query["count"]), exclude),
                    "statistics": self.server.statistics,
                }
                self._json(200, replies[route]())

    def _picture(self, name: str) -> None:
        if name in self.server.missing:
            self._json(404, {"error": "This picture is not there."})
        else:
            self._reply(200, picture(*self.server.size, seed=int(name[:4]) % 8), "image/jpeg")

    def _is_away(self) -> bool:
        if self.server.away == "drop":
            self.close_connection = True
            self.connection.close()
        elif self.server.away:
            self._json(int(self.server.away), {"error": "no"})
        return self.server.away is not None

    def _json(self, status: int, body: dict) -> None:
        self._reply(status, json.dumps(body).encode(), "application/json")

    def _reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
