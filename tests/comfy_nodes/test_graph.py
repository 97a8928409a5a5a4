"""Which LoRA painted a picture is known, even where its file came to the load node through a link."""

from copy import deepcopy

import pytest
from mapo_studio.comfy_nodes.comfy_api import graph as graphs
from mapo_studio.comfy_nodes.comfy_api.graph import record_loaded_lora, upstream_graph
from mapo_studio.comfy_nodes.comfy_api.images import image_metadata


@pytest.fixture(autouse=True)
def forget():
    graphs._files.clear()


def graph(steps=100, linked=True):
    given = {"lora_path": ["1", 0]} if linked else {}
    return {
        "1": {"class_type": "MaPOTrainLoRA", "inputs": {"dataset": "cats", "steps": steps}},
        "2": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}},
        "3": {
            "class_type": graphs.LOADER,
            "inputs": {"model": ["2", 0], "lora_name": "old.safetensors", "strength": 0.5, **given},
        },
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "a cat", "clip": ["2", 1]}},
        "5": {
            "class_type": "KSampler",
            "inputs": {"seed": 1, "steps": 4, "model": ["3", 0], "positive": ["4", 0], "negative": ["4", 0]},
        },
        "6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["2", 2]}},
        "7": {"class_type": "MaPOCollect", "inputs": {"images": ["6", 0]}},
    }


def lora_of(whole):
    return image_metadata(upstream_graph(whole, "7", "images"), "test")[1].lora


def test_a_picture_names_the_lora_that_came_through_a_link():
    record_loaded_lora(graph(), "3", "mapo/cats.safetensors")
    assert lora_of(graph()) == "mapo/cats.safetensors:0.5"


def test_what_is_not_known_is_not_made_up():
    assert lora_of(graph()) is None


def test_another_training_in_the_same_graph_is_another_lora():
    record_loaded_lora(graph(100), "3", "mapo/one.safetensors")
    record_loaded_lora(graph(200), "3", "mapo/two.safetensors")
    assert lora_of(graph(100)) == "mapo/one.safetensors:0.5"
    assert lora_of(graph(200)) == "mapo/two.safetensors:0.5"


def test_what_comfyui_writes_into_the_graph_meanwhile_changes_nothing():
    executing = deepcopy(graph())
    for node in executing.values():
        node["is_changed"] = ["a hash"]
    record_loaded_lora(executing, "3", "mapo/cats.safetensors")
    assert lora_of(graph()) == "mapo/cats.safetensors:0.5"
    assert upstream_graph(executing, "7", "images") == upstream_graph(graph(), "7", "images")


def test_what_is_chosen_from_the_list_stands_in_the_graph():
    assert lora_of(graph(linked=False)) == "old.safetensors:0.5"


def test_only_the_newest_are_remembered(monkeypatch):
    monkeypatch.setattr(graphs, "_MOST", 2)
    for steps in (1, 2, 3):
        record_loaded_lora(graph(steps), "3", f"{steps}.safetensors")
    assert [lora_of(graph(steps)) for steps in (1, 2, 3)] == [None, "2.safetensors:0.5", "3.safetensors:0.5"]
