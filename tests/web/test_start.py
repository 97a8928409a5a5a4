"""How the studio starts and ends, as a command; and when it refuses to."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from mapo_studio.trainer.cli.main import main
from mapo_studio.web import app


@pytest.fixture
def started(tmp_path: Path) -> Iterator:
    """started(*words) -> (process, the address it tells): the command itself, in a folder of its own."""
    running: list[subprocess.Popen] = []

    def start(*words: str, **env: str) -> tuple[subprocess.Popen, str]:
        code = "import sys; from mapo_studio.trainer.cli.main import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "studio", "--no-browser", *words]
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        running.append(process)
        for line in process.stdout:
            if found := re.search(r"the studio is at (http://\S+)", line):
                return process, found[1]
        raise AssertionError(f"it ended with {process.wait()}")

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def get(address: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_it_starts_beside_another_and_ctrl_c_ends_it_cleanly(started, tmp_path):
    with socket.socket() as other:
        # Else connections of a studio that has just ended count as somebody who has the port.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", app.PORT))
            other.listen()
        except OSError:
            pass  # something of this machine has the port already, which will do as well
        process, address = started("--workspace", "mine")
        assert address.startswith("http://127.0.0.1:")
        assert address != f"http://127.0.0.1:{app.PORT}/"
    assert get(address, Accept="text/html")[0] == 200
    assert get(address, Host="evil.example")[0] == 403
    assert get(f"{address}gradio_api/file={tmp_path}/mine/preferences.db")[0] == 403
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "has ended" in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine"]  # nothing passing is left


@pytest.mark.slow
def test_open_to_a_network_it_asks_who_is_there(started):
    _, address = started("--listen", "127.0.0.1", "--port", free_port(), MAPO_STUDIO_PASSWORD="secret")
    status, page = get(address, Accept="text/html")
    assert status == 200
    assert "Password" in page
    assert get(f"{address}mapo/api/statistics?dataset=x")[0] == 401


@pytest.mark.slow
def test_no_model_library_is_loaded_to_show_the_page(tmp_path):
    code = (
        "import sys; from pathlib import Path; from mapo_studio.web.app import studio_app; "
        "from mapo_studio.web.server.security import AllowedHosts; "
        "studio_app(Path(sys.argv[1]), AllowedHosts.of([], 7860)); "
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    env = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path / "passing")}
    ran = subprocess.run([sys.executable, "-c", code, tmp_path / "w"], capture_output=True, text=True, env=env)
    assert ran.stdout == "[]\n", ran.stderr


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def refused(capsys: pytest.CaptureFixture, *words: str) -> str:
    assert main(["studio", "--no-browser", *words]) == 2
    return capsys.readouterr().err


def must_not_serve(*_: object, **__: object) -> None:
    raise AssertionError("it started")


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "_serve", must_not_serve)
    monkeypatch.delenv("MAPO_STUDIO_PASSWORD", raising=False)
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody there to ask
    return tmp_path


@pytest.mark.parametrize("words", [["--listen"], ["--listen", "127.0.0.1"], ["--listen", "0.0.0.0"]])
def test_it_does_not_open_to_a_network_without_a_password(alone, capsys, words):
    said = refused(capsys, *words)
    assert "needs a password" in said
    assert "--auth-file" in said


def test_the_word_in_the_environment_may_not_be_empty(alone, capsys, monkeypatch):
    monkeypatch.setenv("MAPO_STUDIO_PASSWORD", "")
    assert "needs a password" in refused(capsys, "--listen")


def test_a_password_file_is_needed_whole_even_where_nobody_else_listens(alone, capsys):
    assert "cannot be read" in refused(capsys, "--auth-file", "none")


def test_a_root_that_is_not_there_is_named(alone, capsys):
    assert "there is no such folder" in refused(capsys, "--root", "nowhere")


def test_a_port_that_was_asked_for_is_not_changed_silently(alone, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert f"cannot listen on port {port}" in refused(capsys, "--port", port)


@pytest.mark.parametrize("port", ["70000", "-5"])
def test_a_port_that_cannot_be_is_named(alone, capsys, port):
    assert "port" in refused(capsys, "--port", port)


def test_an_address_that_this_machine_does_not_have_is_named(alone, capsys, monkeypatch):
    monkeypatch.setenv("MAPO_STUDIO_PASSWORD", "secret")
    assert "203.0.113.7" in refused(capsys, "--listen", "203.0.113.7")


def test_a_damaged_settings_file_is_told_of_at_the_start(alone, capsys):
    (alone / "workspace").mkdir()
    (alone / "workspace" / "settings.json").write_text("{")
    assert "settings.json" in refused(capsys)
    assert Path.cwd() != alone / "workspace"


def test_without_gradio_a_sentence_says_how_to_get_it(alone, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    for name in [name for name in sys.modules if name.startswith("mapo_studio.web") and name != "mapo_studio.web"]:
        monkeypatch.delitem(sys.modules, name)
    assert "mapo-studio[web]" in refused(capsys)


def test_a_line_for_the_password_file_does_not_show_the_password(alone, capsys, monkeypatch):
    monkeypatch.setattr("getpass.getpass", lambda _: "secret")
    assert main(["studio", "--hash-password", "anna"]) == 0
    line = capsys.readouterr().out.strip()
    assert line.startswith("anna:scrypt$")
    assert "secret" not in line
    file = alone / "who"
    file.write_text(line)
    file.chmod(0o600)
    from mapo_studio.web.server.login import read_passwords

    assert read_passwords(file).fits("anna", "secret")
