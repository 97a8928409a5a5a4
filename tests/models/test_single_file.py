"""Is a model from a single file the same as from the folder it was made from, without network, all weights its own?"""

from __future__ import annotations

import shutil
from functools import partial

import pytest
import torch
from mapo_studio.tests.tiny_models import END, ldm_names, write_sparse, write_tokenizer
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.models import safetensors_file, tokenizer
from mapo_studio.trainer.models.detect import detect_family
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.models.registry import FAMILIES
from mapo_studio.trainer.models.safetensors_file import read_header
from mapo_studio.trainer.models.sd15 import SD15
from mapo_studio.trainer.models.sdxl import SDXL
from mapo_studio.trainer.models.sources import CONFIGS, Folder, SingleFile, read_json
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow

CPU, SINGLE = torch.device("cpu"), torch.float32
PARTS = {"sdxl": ("text_encoder", "text_encoder_2", "vae", "unet"), "sd15": ("text_encoder", "vae", "unet")}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    import socket

    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))


def load(source, part):
    if part.startswith("text"):
        return source.text_encoder(part, CPU, SINGLE)
    return getattr(source, part)(CPU, SINGLE)


@pytest.fixture(params=["sdxl", "sd15"])
def both(request, tmp_path):
    """The same tiny model as a folder and as a single file, whose configurations come from the folder."""
    folder = request.getfixturevalue(f"{request.param}_folder")
    source = Folder(folder)
    named = ldm_names(request.param, {part: load(source, part) for part in PARTS[request.param]})
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.clone().contiguous() for name, tensor in named.items()}, path)
    write_tokenizer(tmp_path / "tokenizers", END)
    file = read_header(path)
    assert detect_family(file) == FAMILIES[request.param]
    return source, SingleFile(file, FAMILIES[request.param], tokenizers=tmp_path / "tokenizers", configs=folder)


def test_every_weight_is_the_folders(both):
    folder, single = both
    for part in PARTS[_family(folder)]:
        expected, found = load(folder, part).state_dict(), load(single, part).state_dict()
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, msg=f"{part}: {name}")


def test_all_parts_answer_as_the_folders(both):
    kind = {"sdxl": SDXL, "sd15": SD15}[_family(both[0])]
    a, b = (kind(source, source.config("scheduler")) for source in both)
    said = [base.load_text(CPU, SINGLE)(["a red fox", ""]) for base in (a, b)]
    torch.testing.assert_close(said[1], said[0], rtol=0, atol=0)

    picture = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        latents = [base.load_vae(CPU).encode(picture).latent_dist.mean for base in (a, b)]
        torch.testing.assert_close(latents[1], latents[0], rtol=0, atol=0)
        pictures = [base.load_vae(CPU).decode(latents[0]).sample for base in (a, b)]
        torch.testing.assert_close(pictures[1], pictures[0], rtol=0, atol=0)

        text = {name: tensor[None] for name, tensor in said[0][0].items()}
        ask = partial(_answer, text=text, noisy=torch.randn(1, 4, 16, 16))
        torch.testing.assert_close(ask(b), ask(a), rtol=0, atol=0)


def test_a_text_encoder_comes_out_whole_from_either_generation_of_names(both, tmp_path):
    # transformers dropped the `text_model.` level in CLIPTextModel; files with and without it are about.
    folder, single = both
    weights = load_file(single.path)
    save_file({name.replace("transformer.text_model.", "transformer."): t for name, t in weights.items()}, single.path)
    bare = SingleFile(read_header(single.path), FAMILIES[_family(folder)], configs=folder.path)
    torch.testing.assert_close(
        load(bare, "text_encoder").state_dict(), load(folder, "text_encoder").state_dict(), rtol=0, atol=0
    )


def test_only_the_tensors_of_the_part_are_read(both, monkeypatch):
    _, single = both
    asked = []
    whole = safetensors_file.SafetensorsFile.read
    monkeypatch.setattr(
        safetensors_file.SafetensorsFile, "read", lambda self, prefix: asked.append(prefix) or whole(self, prefix)
    )
    load(single, "text_encoder")
    load(single, "vae")
    assert len(asked) == 2
    assert not any(prefix.startswith("model.") for prefix in asked)


SPOILT = [
    ("text_encoder", "text_model.encoder.layers.1.layer_norm2.bias"),
    ("text_encoder_2", "transformer.resblocks.2.attn.in_proj_weight"),
    ("vae", "decoder.mid.attn_1.q.weight"),
    ("unet", "middle_block.1.proj_out.bias"),
    ("unet", "label_emb.0.0.weight"),
    ("unet", "input_blocks.3.0.op.weight"),
]


@pytest.mark.parametrize("change", ["lost", "cut"])
def test_a_missing_or_misshapen_weight_is_an_error_and_not_a_random_start(change, both):
    folder, single = both
    whole = {name: weight.clone() for name, weight in load_file(single.path).items()}  # the file is written over
    spoilt = [(part, name) for part, end in SPOILT for name in whole if name.endswith(end)]
    assert len(spoilt) == {"sdxl": 6, "sd15": 4}[_family(folder)]
    for part, name in spoilt:
        weights = dict(whole)
        weight = weights.pop(name)
        if change == "cut":
            weights[name] = weight[:-3].clone()
        save_file(weights, single.path)
        fresh = SingleFile(read_header(single.path), FAMILIES[_family(folder)], configs=folder.path)
        with pytest.raises(UserError, match=r"lacks|has other shapes|cannot be read in full"):
            load(fresh, part)


def test_the_file_may_be_replaced_while_its_model_is_in_use(both):
    folder, single = both
    unet = load(single, "unet")
    single.path.write_bytes(b"\0" * single.path.stat().st_size)
    torch.testing.assert_close(unet.state_dict(), load(folder, "unet").state_dict(), rtol=0, atol=0)


def test_without_a_tokenizer_the_command_that_fetches_it_is_named(both, tmp_path, monkeypatch):
    import huggingface_hub

    def offline(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    folder, single = both
    bare = SingleFile(read_header(single.path), FAMILIES[_family(folder)], configs=folder.path)
    with pytest.raises(UserError, match=r"hf download openai/clip-vit-large-patch14 vocab\.json"):
        bare.tokenizer("tokenizer")
    with pytest.raises(UserError, match="holds no CLIP tokenizer"):
        tokenizer.clip_tokenizer(tmp_path)


def test_the_tokenizer_comes_from_the_hub_cache(both, sd15_folder, tmp_path, monkeypatch):
    import huggingface_hub

    cached = shutil.copytree(sd15_folder / "tokenizer", tmp_path / "cached")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda repo, **_: str(cached))
    assert tokenizer.clip_tokenizer(None).pad_token == END
    assert tokenizer.clip_tokenizer(None, pad="!").pad_token_id == 0


def test_a_slimmed_variant_is_named_as_such(tmp_path):
    from mapo_studio.tests.tiny_models import ldm_unet

    one = SingleFile(read_header(_sparse_unet(tmp_path, ldm_unet)), FAMILIES["sdxl"])
    with pytest.raises(UserError, match="SSD-1B"):
        one.unet(CPU, torch.float16)


def test_a_real_size_sd15_file_loads_every_part_offline(tmp_path):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        models = {
            "unet": UNet2DConditionModel.from_config(read_json(CONFIGS / "sd15/unet/config.json")),
            "vae": AutoencoderKL.from_config(read_json(CONFIGS / "sd15/vae/config.json")),
            "text_encoder": CLIPTextModel(CLIPTextConfig(**read_json(CONFIGS / "sd15/text_encoder/config.json"))),
        }
    shapes = {name: tuple(tensor.shape) for name, tensor in ldm_names("sd15", models).items()}
    base = open_base(write_sparse(tmp_path / "model.safetensors", shapes))
    for part, loaded in (
        ("unet", lambda: base.load_unet(CPU, torch.float16)),
        ("vae", lambda: base.load_vae(CPU)),
        ("text_encoder", lambda: base.source.text_encoder("text_encoder", CPU, torch.float16)),
    ):
        model = loaded()
        assert model.state_dict().keys() == models[part].state_dict().keys()
        # The file holds zeros; whatever is not zero was not read from it.
        assert all(not p.any() and p.device == CPU for p in model.parameters()), part
        assert all(b.device == CPU for b in model.buffers()), part


def _family(source: Folder) -> str:
    return "sdxl" if (source.path / "text_encoder_2").is_dir() else "sd15"


def _answer(base, *, text, noisy):
    unet = base.load_unet(CPU, SINGLE)
    return base.predict(unet, noisy, torch.tensor([321]), text, torch.tensor([[64, 64, 0, 0, 64, 64]]))


def _sparse_unet(folder, ldm_unet):
    from diffusers import UNet2DConditionModel

    config = read_json(CONFIGS / "sdxl/unet/config.json") | {"transformer_layers_per_block": [1, 2, 4]}
    with torch.device("meta"):
        state = UNet2DConditionModel.from_config(config).state_dict()
    return write_sparse(folder / "slim.safetensors", {n: tuple(t.shape) for n, t in ldm_unet(state, 3, 2).items()})
