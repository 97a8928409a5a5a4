"""The shipped base: what it is made of, and that it paints what it is asked for."""

import hashlib
import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from mapo_studio.trainer.demo.judge import measure
from mapo_studio.trainer.demo.shapes_world import captions
from mapo_studio.trainer.demo.tiny_base.tokenizers import write_tokenizers
from safetensors.torch import load_file
from transformers import CLIPTokenizer

BASE = Path(str(files("mapo_studio.trainer.demo.tiny_base"))) / "weights"


@pytest.fixture(scope="module")
def pipeline():
    loaded = StableDiffusionXLPipeline.from_pretrained(BASE, torch_dtype=torch.float32, local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    return loaded


def test_weights_are_those_of_the_provenance():
    recorded = json.loads((BASE / "provenance.json").read_text())["sha256"]
    present = {
        file.relative_to(BASE).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in BASE.rglob("*.safetensors")
    }
    assert present == recorded


def test_folder_is_small_enough_to_ship():
    assert sum(file.stat().st_size for file in BASE.rglob("*") if file.is_file()) < 10e6


def test_all_weights_are_half_precision():
    for file in BASE.rglob("*.safetensors"):
        assert {tensor.dtype for tensor in load_file(file).values() if tensor.is_floating_point()} == {torch.float16}


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_2"])
def test_every_caption_becomes_one_token_a_word(name):
    tokenizer = CLIPTokenizer.from_pretrained(BASE / name)
    for caption in captions():
        tokens = tokenizer(caption).input_ids
        assert len(tokens) == len(caption.split()) + 2
        assert tokenizer.decode(tokens, skip_special_tokens=True).strip() == caption


@pytest.mark.parametrize("text", ["", "Ein Hündchen im Café", "日本語 🙂", "a\tred\ncircle!?", "x" * 500])
def test_any_text_becomes_tokens(text):
    tokenizer = CLIPTokenizer.from_pretrained(BASE / "tokenizer")
    tokens = tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(tokens) == tokenizer.model_max_length
    assert tokens[0] == tokenizer.bos_token_id
    assert max(tokens) < len(tokenizer)
    unknown = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))
    assert tokenizer.unk_token_id not in unknown


def test_words_that_share_letters_each_become_one_token(tmp_path):
    words = ["right", "triangle", "the", "at", "tattle", "a"]
    write_tokenizers(tmp_path, words)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert [len(tokenizer.tokenize(word)) for word in words] == [1] * len(words)


def test_second_tokenizer_pads_with_token_zero_as_sdxl_does():
    first, second = (CLIPTokenizer.from_pretrained(BASE / name) for name in ("tokenizer", "tokenizer_2"))
    assert first.pad_token_id == first.eos_token_id
    assert second.pad_token_id == 0


def test_unet_is_built_as_sdxl_is(pipeline):
    names = {name for name, _ in pipeline.unet.named_modules()}
    for expected in (
        "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0",
        "down_blocks.2.attentions.0.transformer_blocks.1.ff.net.0.proj",
        "mid_block.attentions.0.proj_in",
        "up_blocks.0.attentions.1.transformer_blocks.1.attn1.to_q",
        "up_blocks.2.resnets.1.conv_shortcut",
        "add_embedding.linear_1",
    ):
        assert expected in names
    assert not any(name.startswith("down_blocks.0.attentions") for name in names)
    assert isinstance(pipeline.unet.mid_block.attentions[0].proj_in, torch.nn.Linear)


@torch.no_grad()
def test_latents_have_about_unit_variance(pipeline):
    from mapo_studio.trainer.demo.tiny_base.train_base import draw_pictures

    pictures = draw_pictures(1)
    encoded = pipeline.vae.encode(pictures.batch(torch.arange(120))).latent_dist.mode()
    latents = encoded * pipeline.vae.config.scaling_factor
    assert latents.shape[1:] == (4, 16, 16)
    assert latents.std().item() == pytest.approx(1, abs=0.1)


@pytest.mark.slow
def test_base_paints_what_it_is_asked_for_and_outlines_by_chance(pipeline):
    prompts = list(captions())[::2]
    pictures = []
    for start in range(0, len(prompts), 30):
        part = prompts[start : start + 30]
        generators = [torch.Generator().manual_seed(500 + start + i) for i in range(len(part))]
        out = pipeline(part, height=64, width=64, num_inference_steps=20, guidance_scale=3.0, generator=generators)
        pictures += out.images
    measured = measure(pictures, prompts)
    assert measured.right >= 0.92
    assert 0 < measured.outlined <= 0.6, "the taste must be there to be found, and not yet the rule"
