"""The studio whole: what its routes give away, what an event may name, and how pictures come in and are judged."""

from __future__ import annotations

import io
import json
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mapo_studio.trainer.preferences.store import open_store
from mapo_studio.web.app import studio_app
from mapo_studio.web.server.login import Passwords
from mapo_studio.web.server.preferences_file import SettingsFile
from mapo_studio.web.server.security import AllowedHosts
from PIL import Image, PngImagePlugin
from starlette.testclient import TestClient

pytestmark = pytest.mark.slow

OWN = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with what the start makes: the folder of uploads, and one that pictures may be read from."""
    place = tmp_path_factory.mktemp("place").resolve()
    for name in ("passing", "outputs"):
        (place / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(place / "passing"))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        yield place


@pytest.fixture(scope="module")
def client(place: Path) -> Iterator[TestClient]:
    """The page is built once: that takes seconds. Each test has a dataset of its own."""
    app = studio_app(place / "workspace", AllowedHosts.of([], 7860), (place / "outputs",))
    with TestClient(app, base_url=OWN) as client:
        yield client
    open_store(place / "workspace").close()


@pytest.fixture
def workspace(place: Path) -> Path:
    return place / "workspace"


@pytest.fixture
def roots(place: Path) -> tuple[Path, ...]:
    return (place / "outputs",)


@pytest.fixture
def passing(place: Path) -> Iterator[Path]:
    """The folder of uploads, from which everything is gone that earlier tests left."""
    for path in (place / "passing").rglob("*"):
        if path.is_file():
            path.unlink()
    return place / "passing"


@pytest.fixture(autouse=True)
def dataset(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(globals(), "CATS", f"cats of {request.node.name}"[:200])
    return CATS


CATS = ""
"""The dataset of the running test."""


def painted(colour: str, prompt: str | None = None, kind: str = "PNG") -> bytes:
    made, text = io.BytesIO(), PngImagePlugin.PngInfo()
    if prompt:
        text.add_text("parameters", f"{prompt}\nSteps: 20, Sampler: Euler, Seed: 1, Model: base")
    Image.new("RGB", (32, 24), colour).save(made, kind, **({"pnginfo": text} if kind == "PNG" else {}))
    return made.getvalue()


def upload(client: TestClient, name: str, data: bytes) -> dict[str, Any]:
    [path] = client.post("/gradio_api/upload", files={"files": (name, data)}).json()
    return named(path, name)


def named(path: str | Path, name: str = "a.png") -> dict[str, Any]:
    return {"path": str(path), "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def fire(client: TestClient, function: str, data: list[Any]) -> dict[str, Any]:
    """What the page is told at the end of an event: output and success."""
    events = client.get("/config").json()["dependencies"]
    [number] = {event["id"] for event in events if event["api_name"] == function}
    session = uuid.uuid4().hex
    asked = {"fn_index": number, "data": data, "session_hash": session, "event_data": None, "trigger_id": None}
    joined = client.post("/gradio_api/queue/join", json=asked)
    assert joined.status_code == 200, joined.text
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            told = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if told.get("msg") == "process_completed":
                return told
    raise AssertionError("the event never ended")


def bring(client: TestClient, files: list[Any] | None, folder: str = "", prompt: str = "") -> str:
    """The text that the Collect tab shows after adding, or the error."""
    told = fire(client, "upload_files", [CATS, files, folder, prompt])
    return told["output"]["data"][1] if told["success"] else told["output"]["error"]


def statistics(client: TestClient) -> dict[str, Any]:
    return client.get("/mapo/api/statistics", params={"dataset": CATS}).json()


def kept(workspace: Path) -> set[Path]:
    return set(workspace.glob("images/*/*"))


@pytest.fixture
def pair(client: TestClient) -> dict[str, Any]:
    files = [upload(client, f"{colour}.png", painted(colour, "a cat")) for colour in ("red", "blue")]
    bring(client, files)
    [pair] = client.get("/mapo/api/next", params={"dataset": CATS, "count": 4}).json()["pairs"]
    return pair


# What it gives away


def test_page_opens_as_dark_as_the_settings_say(client, workspace):
    assert client.get("/", follow_redirects=False).headers["location"] == "/?__theme=dark"
    SettingsFile(workspace / "settings.json").change(look="light")
    answer = client.get("/")
    SettingsFile(workspace / "settings.json").change(look="dark")
    assert answer.url.query == b"__theme=light"
    assert "gradio_config" in answer.text


def test_foreign_hosts_origins_and_sites_reach_neither_gradios_routes_nor_ours(client):
    for path in (
        "/",
        "/config",
        "/gradio_api/info",
        "/mapo/api/statistics?dataset=x",
        "/mapo/static/judge/mapo-judge.js",
    ):
        assert client.get(path, headers={"Host": "evil.example"}).status_code == 403
    for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/mapo/api/answers", "/mapo/api/undo"):
        for headers in ({"Origin": "null"}, {"Origin": "http://localhost:8188"}, {"Sec-Fetch-Site": "same-site"}):
            assert client.post(path, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "{workspace}/preferences.db",
        "{workspace}/settings.json",
        "{workspace}/../workspace/preferences.db",
        "preferences.db",
        "../../../../../../etc/passwd",
        "/etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "{repo}/pyproject.toml",
        "pyproject.toml",
        "{passing}/../workspace/preferences.db",
    ],
)
def test_no_file_outside_the_folder_of_uploads_is_served(client, workspace, passing, path, monkeypatch):
    monkeypatch.chdir(workspace)  # as the start does
    assert (workspace / "preferences.db").is_file()
    SettingsFile(workspace / "settings.json").change(look="light")
    repo = Path(__file__).resolve().parents[2]
    path = path.format(workspace=workspace, passing=passing, repo=repo)
    for route in (f"/gradio_api/file={path}", f"/gradio_api/file/{path}", f"/mapo/static/judge/{path}"):
        assert client.get(route).status_code in (403, 404), route


def test_an_event_cannot_name_a_file_that_was_not_uploaded(client, workspace, passing, tmp_path, monkeypatch):
    monkeypatch.chdir(workspace)
    secret = tmp_path / "secret.png"
    secret.write_bytes(painted("red", "a secret"))
    inside = workspace / "a picture.png"
    inside.write_bytes(painted("blue", "a secret"))
    for path in (secret, inside, "/etc/passwd", workspace / "preferences.db"):
        told = fire(client, "upload_files", [CATS, [named(path)], "", "a cat"])
        assert not told["success"]
    assert not [path for path in passing.rglob("*") if path.is_file()]
    assert "no dataset" in statistics(client)["error"]


def test_no_answer_shows_a_traceback(client, monkeypatch):
    monkeypatch.setattr("mapo_studio.web.tabs.collect.folder_below", lambda *_: 1 / 0)
    said = bring(client, None, "anything")
    assert "terminal" in said
    assert "division" not in said
    monkeypatch.setattr("mapo_studio.trainer.preferences.api.find_dataset", lambda *_: 1 / 0)
    answer = client.get("/mapo/api/statistics", params={"dataset": CATS})
    assert answer.status_code == 500
    assert "division" not in answer.text
    assert "terminal" in answer.json()["error"]


# What comes in


def test_pictures_are_grouped_by_the_prompt_they_carry(client):
    files = [
        upload(client, f"{prompt} {colour}.png", painted(colour, prompt))
        for prompt in ("a cat", "a dog")
        for colour in ("red", "green", "blue")
    ]
    assert "6 pair" in bring(client, files)
    assert statistics(client)["pairs"] == 6


def test_pictures_without_a_prompt_wait_for_one_and_are_then_counted_once(client, passing):
    files = [upload(client, f"{colour}.jpg", painted(colour, kind="JPEG")) for colour in ("red", "blue")]
    assert "Type the prompt" in bring(client, files)
    assert "1 pair" in bring(client, files, prompt="a cat")
    assert statistics(client)["pairs"] == 1
    assert not [path for path in passing.rglob("*") if path.is_file() and path.stat().st_size]  # not kept twice


def test_a_zip_of_judged_pairs_brings_its_judgements(client):
    packed = io.BytesIO()
    lines = []
    with zipfile.ZipFile(packed, "w") as archive:
        for number, colour in enumerate(("red", "green")):
            archive.writestr(f"{number}a.png", painted(colour))
            archive.writestr(f"{number}b.png", painted("blue"))
            lines.append(
                json.dumps(
                    {
                        "image_0": f"{number}a.png",
                        "image_1": f"{number}b.png",
                        "prompt": "a cat",
                        "prefer_0": True,
                        "prefer_1": False,
                    }
                )
            )
        archive.writestr("metadata.jsonl", "\n".join(lines))
    assert "2 judgements" in bring(client, [upload(client, "judged.zip", packed.getvalue())])


def test_a_zip_cannot_name_pictures_outside_it(client, tmp_path, workspace):
    before = kept(workspace)
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(painted("red" if name == "a.png" else "blue"))
    line = {
        "image_0": str(tmp_path / "a.png"),
        "image_1": "../../../b.png",
        "prompt": "x",
        "prefer_0": True,
        "prefer_1": False,
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("metadata.jsonl", json.dumps(line))
    bring(client, [upload(client, "sly.zip", packed.getvalue())])
    assert statistics(client).get("pairs", 0) == 0
    assert kept(workspace) == before


def test_what_is_no_picture_is_left_out_whatever_it_is_called(client, workspace):
    before = kept(workspace)
    files = [
        upload(client, "page.png", b"<html><script>alert(1)</script></html>"),
        upload(client, "vector.png", b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>"),
        upload(client, "cut.png", painted("red")[:40]),
        upload(client, "good.png", painted("pink")),
        upload(client, "fine.png", painted("teal")),
        upload(client, "run.exe", b"MZ"),
    ]
    said = bring(client, files, prompt="a cat")
    assert "page.png" in said.replace("\\", "")
    assert "run.exe" in said.replace("\\", "")
    assert statistics(client)["pairs"] == 1
    assert len(kept(workspace) - before) == 2


def test_hostile_names_and_prompts_reach_the_page_as_text(client):
    name = '<img src=x onerror="alert(1)">.exe'
    said = bring(client, [upload(client, name, b"MZ"), upload(client, "a.png", painted("red"))], prompt="x")
    assert "<img" not in said


def test_a_sly_zip_is_refused_with_a_sentence_and_leaves_nothing(client, workspace, passing):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../../evil.png", painted("red"))
    assert "not safe" in bring(client, [upload(client, "sly.zip", packed.getvalue())])
    assert not list(workspace.parent.rglob("evil.png"))
    assert not list(passing.glob("zip-*"))


def test_only_folders_that_were_opened_at_the_start_are_read(client, roots, place):
    for folder in (roots[0], place / "private"):
        folder.mkdir(exist_ok=True)
        for colour in ("red", "blue"):
            (folder / f"{colour}.png").write_bytes(painted(colour, "a cat"))
    assert "may not be read" in bring(client, None, str(place / "private"))
    assert "may not be read" in bring(client, None, str(roots[0] / ".." / "private"))
    assert "1 pair" in bring(client, None, str(roots[0]))
    assert (roots[0] / "red.png").exists()


def test_too_many_files_at_once_are_refused(client, monkeypatch):
    monkeypatch.setattr("mapo_studio.web.tabs.collect.MAX_FILES", 1)
    files = [upload(client, f"{colour}.png", painted(colour)) for colour in ("red", "blue")]
    assert "drop 1 at most" in bring(client, files, prompt="a cat")


# Judging


def test_an_answer_counts_once_however_often_it_is_sent(client, pair):
    said = {
        "pair": pair["pair"],
        "left": pair["left"]["id"],
        "answer": "left",
        "strength": "clearly",
        "seconds": 1.5,
        "client": "page-1",
        "sequence": 1,
        "purpose": "judge",
    }
    for _ in range(2):
        assert client.post("/mapo/api/answers", json={"answers": [said]}).json() == {"stored": [1], "refused": []}
    assert statistics(client)["judged"] == 1
    undo = {"client": "page-1", "sequence": 2, "undoes": 1}
    assert client.post("/mapo/api/undo", json=undo).json()["undone"] is True
    assert statistics(client)["judged"] == 0


def test_a_picture_can_be_kept_for_ever_and_is_only_ever_a_picture(client, pair):
    answer = client.get(f"/mapo/api/picture/{pair['left']['id']}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert Image.open(io.BytesIO(answer.content)).size == (32, 24)


@pytest.mark.parametrize("name", ["0" * 64, "../preferences.db", "%2e%2e%2fpreferences.db", "A" * 64, "x"])
def test_what_is_no_picture_of_the_workspace_is_not_found(client, name):
    assert client.get(f"/mapo/api/picture/{name}").status_code == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("answers", b"{"),
        ("answers", b"[]"),
        ("answers", b'{"answers": [{"pair": 1}]}'),
        ("answers", b"\xff\xfe"),
        ("undo", b'{"client": "x"}'),
        ("rankings", b'{"rankings": 3}'),
    ],
)
def test_a_mistake_in_a_request_is_a_sentence(client, path, body):
    answer = client.post(f"/mapo/api/{path}", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert isinstance(answer.json()["error"], str)


def test_a_form_of_a_foreign_page_is_no_answer(client):
    answer = client.post("/mapo/api/answers", content=b'{"answers": []}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "query", ["dataset=nothing", "", "dataset=cats&count=many", "dataset=cats&exclude=1,x", "dataset=cats&more=1"]
)
def test_a_mistake_in_a_query_is_a_sentence(client, query):
    answer = client.get(f"/mapo/api/next?{query}")
    assert 400 <= answer.status_code < 500
    assert isinstance(answer.json()["error"], str)


def test_two_people_who_judge_the_first_pictures_at_once_are_told_apart(place, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "CATS", None)  # nothing is chosen: the first pictures make the first dataset
    app = studio_app(tmp_path / "team", AllowedHosts.of([], 7860), (), Passwords(shared="secret"))
    with TestClient(app, base_url=OWN) as anna:
        ben = TestClient(app, base_url=OWN)
        for person, name in ((anna, "anna"), (ben, "ben")):
            assert person.get("/mapo/api/statistics?dataset=my taste").status_code == 401
            person.post("/login", data={"name": name, "password": "secret"})
        bring(anna, [upload(anna, f"{colour}.png", painted(colour, "a cat")) for colour in ("red", "blue", "green")])
        monkeypatch.setitem(globals(), "CATS", "my taste")
        for person, answers in ((anna, 3), (ben, 1)):
            pairs = person.get("/mapo/api/next?dataset=my taste").json()["pairs"][:answers]
            said = [
                {
                    "pair": p["pair"],
                    "left": p["left"]["id"],
                    "answer": "left",
                    "client": f"page of {answers}",
                    "sequence": i,
                }
                for i, p in enumerate(pairs)
            ]
            person.post("/mapo/api/answers", json={"answers": said})
        assert [statistics(person)["judged"] for person in (anna, ben)] == [3, 1]
        undo = {"client": "page of 3", "sequence": 9, "undoes": 0}
        assert ben.post("/mapo/api/undo", json=undo).json()["undone"] is False


def test_the_element_is_served_as_script_and_asked_for_anew(client):
    answer = client.get("/mapo/static/judge/mapo-judge.js")
    assert "javascript" in answer.headers["content-type"]
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get("/mapo/static/judge/mapo-judge.js", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
