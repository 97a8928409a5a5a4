"""How does a model's name on the hub become a folder with what is needed of it?"""

from __future__ import annotations

import fnmatch
import shutil

import huggingface_hub
import pytest
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.models.hub import looks_like_hub_id, needed
from mapo_studio.trainer.models.open import open_base

REPO = "someone/a-model"
SDXL = [
    "README.md",
    "model_index.json",
    "scheduler/scheduler_config.json",
    "sd_xl_base_1.0.safetensors",
    *(f"{t}/{f}" for t in ("tokenizer", "tokenizer_2") for f in ("vocab.json", "merges.txt", "tokenizer_config.json")),
    *(f"{c}/config.json" for c in ("text_encoder", "text_encoder_2", "unet", "vae", "vae_1_0", "safety_checker")),
    *(f"text_encoder{n}/model{v}.safetensors" for n in ("", "_2") for v in ("", ".fp16")),
    *(
        f"unet/diffusion_pytorch_model{v}"
        for v in (".safetensors", ".fp16.safetensors", ".bin", ".non_ema.safetensors")
    ),
    "unet/openvino_model.bin",
    "vae/diffusion_pytorch_model.safetensors",
    "vae_1_0/diffusion_pytorch_model.safetensors",
    "safety_checker/model.safetensors",
]


class Hub:
    """The hub as a repository of files, or unreachable; and what was asked of it."""

    def __init__(self, monkeypatch, files, cached=None, error=None):
        self.patterns = None

        def listing(_, repo):
            if error:
                raise error
            return files

        def download(repo, allow_patterns=None, local_files_only=False):
            if local_files_only:
                if cached is None:
                    raise FileNotFoundError("not cached")
                return str(cached)
            self.patterns = allow_patterns
            return str(cached)

        monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", download)


def test_of_a_repository_only_what_a_base_is_loaded_from_is_fetched():
    wanted = needed(SDXL)
    assert len(wanted) == len(set(wanted))
    assert all(any(fnmatch.fnmatch(name, pattern) for name in SDXL) for pattern in wanted)
    weights = sorted(name for name in wanted if name.endswith((".safetensors", ".bin")))
    assert weights == [
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert {"model_index.json", "scheduler/scheduler_config.json", "tokenizer_2/merges.txt"} <= set(wanted)


def test_what_is_whole_in_the_cache_is_opened_without_asking_the_hub(sdxl_folder, monkeypatch):
    hub = Hub(monkeypatch, [], cached=sdxl_folder, error=ConnectionError("offline"))
    assert open_base(REPO).path == sdxl_folder
    assert hub.patterns is None


def test_what_is_in_the_cache_in_part_is_fetched_whole(sdxl_folder, tmp_path, monkeypatch):
    part = shutil.copytree(sdxl_folder, tmp_path / "part")
    next((part / "vae").glob("*.safetensors")).unlink()
    hub = Hub(monkeypatch, SDXL, cached=part)
    open_base(REPO)
    assert hub.patterns == needed(SDXL)


def test_offline_and_not_cached_is_said_in_one_sentence(monkeypatch):
    Hub(monkeypatch, [], error=ConnectionError("no route\nto host"))
    with pytest.raises(UserError, match="not in the Hugging Face cache, and could not be downloaded") as refusal:
        open_base(REPO)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("kind", "words"), [("GatedRepoError", "terms to be accepted"), ("RepositoryNotFoundError", "Check the spelling")]
)
def test_models_that_the_hub_does_not_give_are_explained(kind, words, monkeypatch):
    Hub(monkeypatch, [], error=type(kind, (Exception,), {})("403"))
    with pytest.raises(UserError, match=words):
        open_base(REPO)


def test_a_repository_of_one_checkpoint_points_to_the_file(monkeypatch):
    Hub(monkeypatch, ["README.md", "dream_v2.safetensors"])
    with pytest.raises(UserError, match=r"Download dream_v2\.safetensors from it"):
        open_base(REPO)
    Hub(monkeypatch, ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.bin"])
    with pytest.raises(UserError, match="no diffusers model with safetensors weights"):
        open_base(REPO)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("stabilityai/stable-diffusion-xl-base-1.0", True),
        ("tiny", False),
        ("a/b/c", False),
        ("./a", False),
        ("/a/b", False),
        ("~/b", False),
        ("models/x.safetensors", False),
        ("models/x.ckpt", False),
        ("C:\\models", False),
    ],
)
def test_a_hub_name_is_told_from_a_path(name, is_one):
    assert looks_like_hub_id(name) == is_one
