"""Which requests the studio lets in, asked of the guard and the login before a page that says "inside"."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.web.server import login
from mapo_studio.web.server.login import Login, Passwords, hashed, read_passwords
from mapo_studio.web.server.security import MAX_BODY, AllowedHosts, RequestGuard
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

OWN = "http://127.0.0.1:7860"
MAX_UPLOAD = 3 * MAX_BODY


async def inside(request) -> PlainTextResponse:
    return PlainTextResponse(f"inside {len(await request.body())} {request.scope.get('mapo_user')}")


async def socket_inside(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("inside")
    await socket.close()


def page() -> Starlette:
    everything = Route("/{path:path}", inside, methods=["GET", "POST", "PUT", "DELETE"])
    return Starlette(routes=[WebSocketRoute("/socket", socket_inside), everything])


@pytest.fixture
def client() -> TestClient:
    hosts = AllowedHosts.of(["studio.example", "fe80::1"], 7860)
    return TestClient(RequestGuard(page(), hosts, MAX_UPLOAD), base_url=OWN)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7860", "localhost:7860", "LOCALHOST:7860", "[::1]:7860", "studio.example", "studio.example.:7860"],
)
def test_own_names_are_answered(client, host):
    assert client.get("/", headers={"Host": host}).text == "inside 0 None"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1:9999",
        "localhost",
        "localhost:80",
        "127.0.0.1.evil.example:7860",
        "evil.example#127.0.0.1:7860",
        "127.0.0.1:7860@evil.example",
        "10.0.0.7:7860",
        "0.0.0.0:7860",
        "2130706433:7860",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/gradio_api/info", "/mapo/api/next", "/gradio_api/file=/etc/passwd", "/login"])
def test_another_host_is_refused_on_every_route(client, host, path):
    answer = client.get(path, headers={"Host": host})
    assert answer.status_code == 403
    assert "does not answer to this name" in answer.json()["error"]


def test_two_host_headers_are_refused(client):
    answer = client.get("/", headers=[("Host", "127.0.0.1:7860"), ("Host", "evil.example")])
    assert answer.status_code == 403


def test_the_address_of_this_machine_that_was_called_is_its_own_name_but_no_other_number():
    hosts = AllowedHosts.of([], 7860)
    assert hosts.knows("192.168.1.5:7860", "192.168.1.5")
    assert hosts.knows("[fe80::1]:7860", "fe80:0::1")
    assert not hosts.knows("192.168.1.6:7860", "192.168.1.5")
    assert not hosts.knows("192.168.1.5:7861", "192.168.1.5")
    assert not hosts.knows("testserver:7860", "testserver")


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "https://evil.example",
        "http://127.0.0.1:8188",
        "http://localhost:7860",
        "http://127.0.0.1",
        "file://",
        "chrome-extension://abc",
        "http://127.0.0.1:7860.evil.example",
        "",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_foreign_origin_is_refused(client, origin, method):
    answer = client.request(method, "/gradio_api/queue/join", headers={"Origin": origin})
    assert answer.status_code == 403
    assert "error" in answer.json()


def test_own_origin_is_let_in(client):
    headers = {"Origin": OWN, "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert client.post("/gradio_api/queue/join", json={}, headers=headers).status_code == 200
    # An https proxy in front: the browser's origin says https, the Host header stays.
    proxied = {"Host": "studio.example", "Origin": "https://studio.example"}
    assert client.post("/mapo/api/answers", json={}, headers=proxied).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site", "nonsense"])
def test_other_sites_may_link_to_the_page_and_nothing_else(client, site):
    link = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200
    assert client.post("/", headers=link).status_code == 403
    assert client.delete("/", headers=link).status_code == 403
    embedded = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/mapo/api/picture/" + "0" * 64, headers=embedded).status_code == 403
    assert client.get("/gradio_api/queue/data", headers={"Sec-Fetch-Site": site}).status_code == 403


def test_programs_that_are_no_browsers_are_let_in(client):
    assert client.post("/mapo/api/answers", json={}).status_code == 200


def test_websockets_are_guarded_too(client):
    with client.websocket_connect("/socket", headers={"Origin": OWN, "Host": "127.0.0.1:7860"}) as socket:
        assert socket.receive_text() == "inside"
    for headers in ({"Origin": "https://evil.example", "Host": "127.0.0.1:7860"}, {"Host": "evil.example"}):
        with (
            pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
            client.websocket_connect("/socket", headers=headers),
        ):
            pytest.fail("it was let in")


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/proxy=https://evil.example/x",
        "/gradio_api/file=https://evil.example/x.png",
        "/gradio_api/file=HTTP://evil.example/x.png",
        "/gradio_api/vibe-edit",
        "/gradio_api/run-history/connect",
        "/gradio_api/dev/reload",
        "/gradio_api/deep_link",
        "/monitoring",
    ],
)
def test_what_gradio_can_do_besides_is_closed(client, path):
    assert client.get(path).status_code == 403


def test_a_body_is_bounded_announced_or_not(client):
    assert client.post("/mapo/api/answers", content=bytes(MAX_BODY)).text.startswith(f"inside {MAX_BODY}")
    assert client.post("/mapo/api/answers", content=bytes(MAX_BODY + 1)).status_code == 413
    pieces = (bytes(MAX_BODY // 2) for _ in range(3))
    answer = client.post("/mapo/api/answers", content=pieces)
    assert answer.status_code == 413
    assert "more than the studio takes at once (4 MB)" in answer.json()["error"]
    for length in ("-1", "x", "1e3"):
        assert client.post("/", content=b"", headers={"Content-Length": length}).status_code == 413


def test_an_upload_may_be_larger_but_is_bounded_as_well(client):
    assert client.post("/gradio_api/upload", content=bytes(MAX_UPLOAD)).status_code == 200
    assert client.post("/gradio_api/upload", content=(bytes(MAX_BODY) for _ in range(4))).status_code == 413


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "evil.example"])
def test_every_answer_carries_the_headers_that_keep_the_page_to_itself(client, host):
    headers = client.get("/", headers={"Host": host}).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]
    assert "default-src 'self'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "same-origin"


# Who is at the other end


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waited: list[float] = []

    async def sleep(seconds: float, original: Callable = asyncio.sleep) -> None:
        waited.append(seconds)
        await original(0)

    monkeypatch.setattr(login.asyncio, "sleep", sleep)
    return waited


def guarded(passwords: Passwords) -> Callable[[], TestClient]:
    app = RequestGuard(Login(page(), passwords, 7860), AllowedHosts.of([], 7860), MAX_UPLOAD)
    return lambda: TestClient(app, base_url=OWN, follow_redirects=False)


def test_nothing_is_shown_before_the_login(no_waiting):
    client = guarded(Passwords({"anna": "secret"}))()
    assert client.get("/", headers={"Accept": "text/html"}).headers["location"] == "/login"
    for path in (
        "/mapo/api/next",
        "/mapo/api/picture/" + "0" * 64,
        "/gradio_api/info",
        "/mapo/static/judge/x.js",
        "/config",
    ):
        answer = client.get(path)
        assert answer.status_code == 401
        assert "not logged in" in answer.json()["error"]
    assert client.post("/gradio_api/queue/join", json={}).status_code == 401
    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)), client.websocket_connect("/socket"):
        pytest.fail("it was let in")


def test_two_people_are_kept_apart_and_each_logs_out_alone(no_waiting):
    browser = guarded(Passwords({"anna": "secret", "ben": hashed("other")}))
    anna, ben = browser(), browser()
    assert anna.post("/login", data={"name": "anna", "password": "secret"}).status_code == 303
    assert ben.post("/login", data={"name": "ben", "password": "other"}).status_code == 303
    assert anna.get("/mapo/api/next").text == "inside 0 anna"
    assert ben.get("/mapo/api/next").text == "inside 0 ben"
    assert anna.post("/logout").status_code == 303
    assert anna.get("/mapo/api/next").status_code == 401
    assert ben.get("/mapo/api/next").text == "inside 0 ben"
    assert no_waiting == []


def test_wrong_passwords_and_unknown_names_look_alike_and_cost_time(no_waiting):
    client = guarded(Passwords({"anna": "secret"}))()
    said = [
        client.post("/login", data={"name": name, "password": password})
        for name, password in (("anna", "Secret"), ("nobody", "secret"), ("", ""), ("anna", ""))
    ]
    assert [answer.status_code for answer in said] == [403] * 4
    assert no_waiting == [1] * 4
    assert said[0].text.replace("anna", "") == said[1].text.replace("nobody", "")
    assert client.get("/").status_code == 401


def test_a_made_up_cookie_opens_nothing_and_a_real_one_is_hidden_from_scripts(no_waiting):
    client = guarded(Passwords(shared="secret"))()
    for cookie in ("mapo-studio-7860=anna", "mapo-studio-7860=", "mapo-studio-7860=\x01;=;"):
        assert client.get("/", headers={"Cookie": cookie}).status_code == 401
    given = client.post("/login", data={"name": "anna", "password": "secret"}).headers["set-cookie"].lower()
    assert "httponly" in given
    assert "samesite=lax" in given


def test_with_a_shared_password_everyone_says_a_name(no_waiting):
    client = guarded(Passwords(shared="secret"))()
    assert client.post("/login", data={"name": " ", "password": "secret"}).status_code == 403
    client.post("/login", data={"name": "Zoë", "password": "secret"})
    assert client.get("/").text == "inside 0 Zoë"


def test_a_foreign_page_cannot_log_anyone_in(no_waiting):
    client = guarded(Passwords(shared="secret"))()
    sent = {"name": "anna", "password": "secret"}
    assert client.post("/login", data=sent, headers={"Origin": "https://evil.example"}).status_code == 403


def test_the_name_in_the_login_page_is_no_html(no_waiting):
    client = guarded(Passwords(shared="secret"))()
    answer = client.post("/login", data={"name": '"><script>x</script>', "password": "no"})
    assert "<script>" not in answer.text


def test_an_endless_login_form_is_refused(no_waiting):
    client = guarded(Passwords(shared="secret"))()
    assert client.post("/login", data={"name": "a" * 10_000, "password": "secret"}).status_code == 413


def test_passwords_are_read_from_lines(tmp_path):
    file = tmp_path / "who"
    file.write_text(f"# who may come in\nanna:sec:ret\n\n ben : {hashed('other')}\n")
    file.chmod(0o600)
    found = read_passwords(file)
    assert found.fits("anna", "sec:ret")
    assert found.fits("ben", "other")
    assert not found.fits("ben", found.by_name["ben"])
    assert not found.fits("carl", "other")
    assert "sec:ret" not in repr(found)


@pytest.mark.parametrize("text", ["", "# nobody\n", "anna\n", ":secret\n", "anna:\n"])
def test_a_file_without_whole_lines_is_refused(tmp_path, text):
    file = tmp_path / "who"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(UserError, match="who"):
        read_passwords(file)


@pytest.mark.skipif(os.name == "nt", reason="there are no such modes there")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
def test_a_file_that_others_may_read_is_refused(tmp_path, mode):
    file = tmp_path / "who"
    file.write_text("anna:secret")
    file.chmod(mode)
    with pytest.raises(UserError, match="chmod 600"):
        read_passwords(file)


def test_a_damaged_hash_lets_nobody_in():
    for kept in ("scrypt$", "scrypt$zz$zz", "scrypt$00"):
        assert not Passwords({"anna": kept}).fits("anna", "")
        assert not Passwords({"anna": kept}).fits("anna", kept)
