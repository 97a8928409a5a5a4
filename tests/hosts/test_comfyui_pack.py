"""Does the pack live in a real ComfyUI: is it loaded, does it stay out of the way, does it refuse what it must?"""

from __future__ import annotations

import http.client
import json
import statistics
from pathlib import Path

import pytest
from mapo_studio.tests.hosts.prompts import painting
from mapo_studio.tests.hosts.running_comfyui import PACK, REPOSITORY
from mapo_studio.trainer.demo.judge import measure
from mapo_studio.trainer.preferences.dataset_pairs import DatasetPairs
from mapo_studio.trainer.preferences.schema import ImageRecord
from mapo_studio.trainer.preferences.store import open_store
from sqlalchemy import select

pytestmark = pytest.mark.slow

CIRCLE, SQUARE = "a red circle at the top left", "a blue square at the bottom right"
NODES = {f"MaPO{name}" for name in ("Collect", "Pick", "TrainLoRA", "LoadLoRA", "Compare", "DatasetInfo")}
HEAVY = {"gradio", "diffusers", "peft", "bitsandbytes", "pyarrow", "accelerate", "tyro", "rich", "matplotlib"}
JSON = {"Content-Type": "application/json"}
FILED_SEED = 471_102  # of no other test: they share the server, and its workspace
HIDE = """import importlib.machinery as machinery
_find = machinery.PathFinder.find_spec
machinery.PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.partition(".")[0] in {hidden!r} else _find(name, *rest)
)
"""


def collecting(text: str, dataset: str, prompt: str = "", **painted) -> dict:
    graph = painting(text, **painted)
    graph["keep"] = node("MaPOCollect", images=["decode", 0], dataset=dataset, prompt=prompt)
    return graph


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def line(entry: dict) -> str:
    """What the collect node said of itself."""
    return entry["outputs"]["keep"]["text"][0]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def test_the_tiny_base_paints_in_comfyui_what_it_is_asked_for(server):
    for seed, caption in enumerate([CIRCLE, SQUARE]):
        prompt = painting(caption, seed=seed, pictures=4)
        prompt["show"] = node("PreviewImage", images=["decode", 0])
        pictures = server.pictures(server.run(prompt), "show")
        assert [picture.size for picture in pictures] == [(64, 64)] * 4
        assert measure(pictures, [caption] * 4).right >= 0.75


def test_every_node_is_there_and_explains_all_that_it_takes_and_gives(server):
    nodes = {name: one for name, one in server.get("/object_info").items() if name.startswith("MaPO")}
    assert set(nodes) == NODES
    for name, one in nodes.items():
        inputs = [(key, said) for part in ("required", "optional") for key, said in one["input"].get(part, {}).items()]
        assert [key for key, said in inputs if len(said) < 2 or not said[1].get("tooltip")] == [], name
        assert len(one["output_tooltips"]) == len(one["output"])
        assert all(one["output_tooltips"]), name
        assert not set(one["output_name"]) & set(one["output"]), f"{name}: an output is called by its type only"
        assert one["category"] == "MaPO"
        assert one["display_name"].startswith("MaPO ")
        assert one["description"]


def test_every_node_has_a_help_page_where_comfyui_looks_for_it(server):
    folder = PACK.replace(" ", "%20")
    for name in NODES:
        status, text = server.request("GET", f"/extensions/{folder}/docs/{name}.md")
        assert status == 200, name
        assert text.startswith(b"# ")


def test_loading_adds_less_than_a_third_of_a_second_to_comfyuis_start(in_comfyui):
    answer = in_comfyui("load_pack.py", {"pack": str(REPOSITORY)})
    assert set(answer["nodes"]) == NODES
    assert answer["said"] == []
    assert statistics.median(answer["seconds"]) < 0.3
    assert set(answer["imported"]) & HEAVY == set()


def test_without_a_package_that_is_needed_one_line_says_so_and_comfyui_runs(new_comfyui, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(hidden={"peft", "tyro"}))
    without = new_comfyui(environment={"PYTHONPATH": str(tmp_path)})
    said = [line for line in without.log().splitlines() if "MaPO Studio" in line and "seconds" not in line]
    assert len(said) == 1
    assert "is not loaded, for want of peft, tyro. Close ComfyUI and run: " in said[0]
    assert f'-m pip install -r "{without.pack / "requirements.txt"}"' in said[0]
    assert "Traceback" not in without.log().partition("MaPO Studio")[2].partition("Starting server")[0]
    known = without.get("/object_info")
    assert "KSampler" in known
    assert not NODES & set(known)
    assert without.request("GET", "/mapo/api/statistics?dataset=x")[0] == 404


def test_collected_pictures_are_filed_with_what_the_graph_says_of_them(server):
    with server.listen("a page") as page:
        entry = server.run(collecting(CIRCLE, "filed", seed=FILED_SEED, pictures=3), "a page")
        told = page.wait_for("mapo.collected", lambda said: said["dataset"] == "filed")
    assert line(entry) == "3 kept, 3 new pairs, 3 to judge"
    assert told == {"dataset": "filed", "new": 3, "waiting": 3}
    with open_store(server.workspace).reading() as session:
        rows = session.scalars(select(ImageRecord).where(ImageRecord.seed == str(FILED_SEED))).all()
    assert len(rows) == 3
    assert {(row.model, row.sampler, row.lora) for row in rows} == {("tiny-sdxl.safetensors", "euler normal", None)}
    assert {(row.width, row.height, row.ending) for row in rows} == {(64, 64, ".png")}


def test_collecting_the_same_pictures_again_doubles_nothing(server):
    prompt = collecting(CIRCLE, "again", pictures=2)
    assert line(server.run(prompt)) == "2 kept, 1 new pair, 1 to judge"
    server.run(prompt)  # from ComfyUI's cache
    prompt["keep"]["inputs"]["prompt"] = CIRCLE  # another input: executed anew, for the same prompt
    assert line(server.run(prompt)) == "2 kept, 0 new pairs, 1 to judge"
    assert len(server.get("/mapo/api/next", dataset="again")["pairs"]) == 1


def test_a_list_of_pictures_of_different_sizes_is_collected_too(server):
    prompt = collecting(CIRCLE, "list")
    prompt["wider"] = node(
        "ImageScale", image=["decode", 0], width=96, height=64, upscale_method="nearest-exact", crop="disabled"
    )
    prompt["list"] = node("TestList", one=["decode", 0], other=["wider", 0])
    prompt["keep"]["inputs"]["images"] = ["list", 0]
    entry = server.run(prompt)
    assert entry["outputs"]["keep"]["text"] == ["1 kept, 0 new pairs, 0 to judge", "1 kept, 1 new pair, 1 to judge"]


def test_pictures_without_a_prompt_are_refused_with_what_to_do(server):
    prompt = {
        "empty": node("EmptyImage", width=64, height=64, batch_size=2, color=255),
        "keep": node("MaPOCollect", images=["empty", 0], dataset="no prompt", prompt="  "),
    }
    with pytest.raises(Exception, match="no prompt is found in the graph: write into the node what") as failed:
        server.run(prompt)
    assert failed.value.node == "keep"
    prompt["keep"]["inputs"]["prompt"] = "a blue wall"
    assert line(server.run(prompt)) == "1 kept, 0 new pairs, 0 to judge", "both pictures are the same one"


def test_what_is_judged_over_the_routes_is_a_dataset_of_the_engine(server):
    server.run(collecting(SQUARE, "judged here", seed=3, pictures=3))
    waiting = server.get("/mapo/api/next", dataset="judged here")
    assert waiting["waiting"] == 3
    chosen = {}
    for number, pair in enumerate(waiting["pairs"]):
        status, file = server.request("GET", f"/mapo/api/picture/{pair['left']['id']}")
        assert (status, file[:4]) == (200, b"\x89PNG")
        said = {"pair": pair["pair"], "left": pair["left"]["id"], "answer": "left", "client": "t", "sequence": number}
        assert server.post("/mapo/api/answers", {"answers": [said]}) == {"stored": [number], "refused": []}
        chosen[frozenset((pair["left"]["id"], pair["right"]["id"]))] = pair["left"]["id"]
    assert server.get("/mapo/api/statistics", dataset="judged here")["judged"] == 3
    pairs = DatasetPairs(open_store(server.workspace), "judged here").load().pairs
    assert {pair.prompt for pair in pairs} == {SQUARE}
    found = {frozenset((one.chosen.sha256, one.rejected.sha256)): one.chosen.sha256 for one in pairs}
    assert found == chosen


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("POST", "/mapo/api/answers", {**JSON, "Origin": "http://elsewhere.example"}, b'{"answers": []}', 403),
        ("POST", "/mapo/api/answers", {**JSON, "Sec-Fetch-Site": "cross-site"}, b'{"answers": []}', 403),
        ("GET", "/mapo/api/statistics?dataset=x", {"Origin": "null"}, None, 403),
        ("POST", "/mapo/api/answers", {"Content-Type": "text/plain"}, b'{"answers": []}', 415),
        ("POST", "/mapo/api/answers", {}, b'{"answers": []}', 415),
        ("POST", "/mapo/api/answers", JSON, b" " * 1_000_001 + b'{"answers": []}', 413),
        ("POST", "/mapo/api/answers", JSON, b"{", 422),
        ("POST", "/mapo/api/answers", JSON, b'{"answers": [{"pair": "1; drop table pairs"}]}', 422),
        ("GET", "/mapo/api/next?dataset=never+made", {}, None, 400),
        ("GET", "/mapo/api/picture/" + "0" * 64, {}, None, 404),
        ("GET", "/mapo/api/picture/preferences.db", {}, None, 404),
        ("GET", "/mapo/api/picture/..%2F..%2Fpreferences.db", {}, None, 404),
        ("GET", "/mapo/api/picture/../../../preferences.db", {}, None, 404),
        ("GET", "/mapo/judge/..%2Fapp.py", {}, None, 404),
        ("GET", "/mapo/judge/../app.py", {}, None, 404),
        ("GET", "/mapo/judge/mapo-judge.py", {}, None, 404),
    ],
)
def test_routes_refuse(server, method, path, headers, body, status):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request(method, path, body, headers)  # urllib would mend the path
    answer = connection.getresponse()
    said = answer.read().decode()
    assert answer.status == status, said
    if answer.headers.get_content_type() == "application/json":
        assert set(json.loads(said)) == {"error"}
    connection.close()


def test_the_page_of_this_very_server_is_let_in(server):
    said = {"answers": []}
    headers = {**JSON, "Origin": server.address, "Sec-Fetch-Site": "same-origin"}
    status, answer = server.request("POST", "/mapo/api/answers", json.dumps(said).encode(), headers)
    assert (status, json.loads(answer)) == (200, {"stored": [], "refused": []})


def test_nothing_is_written_into_the_packs_folder(server):
    before = listing(server.pack)
    server.run(collecting(CIRCLE, "clean", seed=11, pictures=2))
    server.get("/mapo/api/next", dataset="clean")
    assert listing(server.pack) == before
    assert (server.workspace / "preferences.db").is_file()
