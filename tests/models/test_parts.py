"""Is every part of a base loaded, encoded and called as diffusers' own pipelines do it?"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from mapo_studio.tests.simulated_devices import pretend
from mapo_studio.tests.tiny_models import TOKENS
from mapo_studio.trainer.images.crop import SizeConditioning
from mapo_studio.trainer.models.open import open_base

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
PROMPTS = ["a red fox", "", "Red, RED!", "a very long prompt " * 5]


@pytest.fixture
def sdxl(sdxl_folder, tmp_path):
    return open_base(sdxl_folder, memo=tmp_path / "memo.json")


@pytest.fixture
def sd15(sd15_folder, tmp_path):
    return open_base(sd15_folder, memo=tmp_path / "memo.json")


def test_resolution_and_latent_factor_come_from_the_configurations(sdxl, sd15):
    for base, family in ((sdxl, "sdxl"), (sd15, "sd15")):
        assert (base.family, base.resolution, base.latent_factor) == (family, 64, 4)


def test_sdxl_text_is_what_the_pipeline_encodes(sdxl, sdxl_folder):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(sdxl_folder)
    hidden, _, pooled, _ = pipeline.encode_prompt(PROMPTS, device=CPU, do_classifier_free_guidance=False)
    said = sdxl.load_text(CPU, torch.float32)(PROMPTS)
    assert said[0]["hidden"].shape == (TOKENS, 40)
    assert said[0]["pooled"].shape == (24,)
    torch.testing.assert_close(torch.stack([s["hidden"] for s in said]), hidden)
    torch.testing.assert_close(torch.stack([s["pooled"] for s in said]), pooled)
    assert (hidden[0] - hidden[1]).abs().max() > 0.1


def test_sdxl_encoders_pad_differently(sdxl):
    tokenizers = [tokenizer for tokenizer, _ in sdxl.load_text(CPU, torch.float32)._pairs]
    first, second = (t(["a"], padding="max_length", max_length=TOKENS).input_ids[0] for t in tokenizers)
    assert first[:3] == second[:3]
    assert set(first[3:]) == {first[2]}
    assert set(second[3:]) == {0}


def test_sd15_text_is_what_the_pipeline_encodes(sd15, sd15_folder):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(sd15_folder)
    hidden, _ = pipeline.encode_prompt(PROMPTS, CPU, 1, do_classifier_free_guidance=False)
    said = sd15.load_text(CPU, torch.float32)(PROMPTS)
    torch.testing.assert_close(torch.stack([s["hidden"] for s in said]), hidden)


def test_no_prompts_give_no_text(sdxl, sd15):
    assert sdxl.load_text(CPU, torch.float32)([]) == []
    assert sd15.load_text(CPU, torch.float32)([]) == []


def test_a_long_prompt_is_cut_and_said_so(sdxl, caplog):
    text = sdxl.load_text(CPU, torch.float32)
    assert torch.equal(text(["a" * 100])[0]["hidden"], text(["a" * 200])[0]["hidden"])
    assert [f"{TOKENS - 2} tokens" in record.message for record in caplog.records] == [True, True]


def test_a_tokenizer_that_claims_more_tokens_than_the_encoder_has_is_not_believed(sdxl_folder, tmp_path):
    folder = shutil.copytree(sdxl_folder, tmp_path / "model")
    for name in ("tokenizer", "tokenizer_2"):
        config = json.loads((folder / name / "tokenizer_config.json").read_text())
        (folder / name / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 8192}))
    for prompt in ("a", "a " * 100):
        said, expected = (open_base(f).load_text(CPU, torch.float32)([prompt])[0] for f in (folder, sdxl_folder))
        torch.testing.assert_close(said, expected)


def test_sdxl_prediction_is_the_unets_answer_to_text_and_framing(sdxl):
    unet = sdxl.load_unet(CPU, torch.float32)
    text = [{"hidden": torch.randn(2, 5, 40), "pooled": torch.randn(2, 24)} for _ in range(2)]
    noisy, timestep = torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    framing = torch.tensor(
        [SizeConditioning(640, 480, 3, 5, 64, 64).as_list(), SizeConditioning(64, 64, 0, 0, 64, 64).as_list()]
    )
    with torch.no_grad():
        answer = sdxl.predict(unet, noisy, timestep, text[0], framing)
        added = {"text_embeds": text[0]["pooled"], "time_ids": framing}
        expected = unet(noisy, timestep, text[0]["hidden"], added_cond_kwargs=added).sample
        torch.testing.assert_close(answer, expected)
        for other in (
            sdxl.predict(unet, noisy, timestep, text[1], framing),
            sdxl.predict(unet, noisy, timestep, text[0], framing.flip(0)),
            sdxl.predict(unet, noisy, timestep.flip(0), text[0], framing),
        ):
            assert (other - answer).abs().max() > 1e-4


def test_sd15_prediction_is_the_unets_answer_to_text(sd15):
    unet = sd15.load_unet(CPU, torch.float32)
    text, noisy, timestep = torch.randn(2, 5, 16), torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    with torch.no_grad():
        answer = sd15.predict(unet, noisy, timestep, {"hidden": text}, torch.zeros(2, 6))
        torch.testing.assert_close(answer, unet(noisy, timestep, text).sample)


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
def test_a_half_precision_unet_answers_in_the_dtype_it_was_asked_in(family, request):
    base = request.getfixturevalue(family)
    unet = base.load_unet(CPU, torch.bfloat16)
    assert {p.dtype for p in unet.parameters()} == {torch.bfloat16}
    text = {"hidden": torch.randn(1, 5, unet.config.cross_attention_dim), "pooled": torch.randn(1, 24)}
    with torch.no_grad():
        answer = base.predict(unet, torch.randn(1, 4, 16, 16), torch.tensor([500]), text, torch.tensor([[64] * 6]))
    assert answer.dtype == torch.float32


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
def test_models_come_frozen_and_in_evaluation_mode(family, request):
    base = request.getfixturevalue(family)
    for model in (base.load_unet(CPU, torch.float32), base.load_vae(CPU)):
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())


def test_vae_is_float32_without_a_card_and_never_float16(sdxl, monkeypatch):
    assert next(sdxl.load_vae(CPU).parameters()).dtype == torch.float32
    asked = []

    def vae(device, dtype):
        asked.append(dtype)
        return torch.nn.Identity()

    monkeypatch.setattr(sdxl.source, "vae", vae)
    for card in ("T4", "RTX 3060"):
        sdxl.load_vae(pretend(monkeypatch, card))
    assert asked == [torch.float32, torch.bfloat16]


def test_identity_follows_the_weights_of_its_part_alone(sd15_folder, tmp_path):
    copy = shutil.copytree(sd15_folder, tmp_path / "copy")
    memo = tmp_path / "memo.json"
    before = {part: open_base(copy, memo=memo).identity(part) for part in ("text", "vae", "unet", "all")}
    assert all(len(value) == 16 and int(value, 16) >= 0 for value in before.values())
    assert len(set(before.values())) == 4
    assert open_base(sd15_folder, memo=memo).identity("vae") == before["vae"]

    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    after = {part: open_base(copy, memo=memo).identity(part) for part in before}
    assert {part for part in before if before[part] != after[part]} == {"vae", "all"}


def test_identity_is_not_computed_twice_for_an_unchanged_file(sd15_folder, tmp_path, monkeypatch):
    from mapo_studio.trainer.models import content_hash

    memo = tmp_path / "memo.json"
    first = open_base(sd15_folder, memo=memo).identity()
    monkeypatch.setattr(content_hash, "sha256_of", lambda file: pytest.fail(f"{file} was read again"))
    assert open_base(sd15_folder, memo=memo).identity() == first


def test_identity_survives_a_broken_memo(sd15_folder, tmp_path):
    memo = tmp_path / "memo.json"
    expected = open_base(sd15_folder, memo=memo).identity()
    memo.write_text("[not json")
    assert open_base(sd15_folder, memo=memo).identity() == expected
