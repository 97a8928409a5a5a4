"""How does a base paint pictures, with or without a LoRA?"""

from __future__ import annotations

import pytest
import torch
from mapo_studio.tests.tiny_models import write_sd15, write_sdxl
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.lora.adapter import LoraSettings, attach, disabled, load_lora_state_dict
from mapo_studio.trainer.lora.file import write_lora
from mapo_studio.trainer.models.open import open_base
from mapo_studio.trainer.sampling.sampler import decode, generate, sample

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
ZERO_SNR = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return open_base(write_sdxl(tmp_path_factory.mktemp("sdxl")))


@pytest.fixture(scope="module")
def unet(base):
    return base.load_unet(CPU, torch.float32)


@pytest.fixture(scope="module")
def texts(base):
    *said, empty = base.load_text(CPU, torch.float32)(["a red fox", "a blue cat", "xyz", ""])
    return [(one, empty) for one in said]


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", ["sdxl", "sd15"])
@pytest.mark.parametrize("scheduler", [{}, {"timestep_spacing": "trailing"}, {"prediction_type": "v_prediction"}])
def test_pictures_are_those_of_diffusers_pipeline(family, scheduler, tmp_path):
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    write, pipeline = {
        "sdxl": (write_sdxl, StableDiffusionXLPipeline),
        "sd15": (write_sd15, StableDiffusionPipeline),
    }[family]
    folder = write(tmp_path, scheduler=scheduler)
    mine = open_base(folder)
    *said, empty = mine.load_text(CPU, torch.float32)(["a red fox", ""])
    options = {"safety_checker": None} if family == "sd15" else {}
    theirs = pipeline.from_pretrained(folder, **options)(
        "a red fox",
        negative_prompt="",
        width=64,
        height=48,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
    ).images
    latents = sample(mine, mine.load_unet(CPU, torch.float32), [(said[0], empty)], (64, 48), [7], steps=5, guidance=4.0)
    assert latents.shape == (1, 4, 12, 16)
    close(latents, theirs)


def test_a_picture_depends_on_its_seed_and_not_on_its_neighbours(base, unet, texts):
    together = sample(base, unet, texts, (64, 64), [1, 2, 3], steps=4, batch_size=3)
    for order in ([2, 0], [1]):
        alone = sample(
            base, unet, [texts[i] for i in order], (64, 64), [[1, 2, 3][i] for i in order], steps=4, batch_size=1
        )
        close(alone, together[order])
    assert torch.equal(together, sample(base, unet, texts, (64, 64), [1, 2, 3], steps=4, batch_size=3))
    other = sample(base, unet, texts[:1], (64, 64), [9], steps=4)
    assert (other - together[:1]).abs().max() > 0.5


def test_the_global_random_state_is_left_alone(base, unet, texts):
    before = torch.random.get_rng_state()
    sample(base, unet, texts[:1], (64, 64), [1], steps=2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_halves_one_at_a_time_paint_the_same_in_smaller_forwards(base, unet, texts, monkeypatch):
    sizes = []
    predict = type(base).predict
    monkeypatch.setattr(
        type(base),
        "predict",
        lambda self, unet, noisy, *rest: sizes.append(len(noisy)) or predict(self, unet, noisy, *rest),
    )
    whole = sample(base, unet, texts[:2], (64, 64), [1, 2], steps=3)
    halves = sample(base, unet, texts[:2], (64, 64), [1, 2], steps=3, sequential_cfg=True)
    single = sample(base, unet, texts[:2], (64, 64), [1, 2], steps=3, guidance=1)
    assert sizes == [4] * 3 + [2] * 6 + [2] * 3
    close(halves, whole)
    assert (single - whole).abs().max() > 1e-3


def test_at_guidance_one_the_second_text_does_not_matter(base, unet, texts):
    swapped = [(yes, texts[1][0]) for yes, _ in texts[:1]]
    assert torch.equal(
        sample(base, unet, texts[:1], (64, 64), [1], steps=2, guidance=1),
        sample(base, unet, swapped, (64, 64), [1], steps=2, guidance=1),
    )


def test_a_zero_snr_base_is_sampled_from_its_last_timestep_and_rescaled(tmp_path, texts, monkeypatch):
    base = open_base(write_sdxl(tmp_path, scheduler=ZERO_SNR | {"timestep_spacing": "leading"}))
    unet, asked = base.load_unet(CPU, torch.float32), []
    predict = type(base).predict
    monkeypatch.setattr(
        type(base),
        "predict",
        lambda self, u, noisy, t, *rest: asked.append(int(t[0])) or predict(self, u, noisy, t, *rest),
    )
    usual = sample(base, unet, texts[:1], (64, 64), [1], steps=4, guidance=8)
    assert asked == [999, 749, 499, 249]
    assert usual.isfinite().all()
    close(usual, sample(base, unet, texts[:1], (64, 64), [1], steps=4, guidance=8, rescale=0.7))
    assert (usual - sample(base, unet, texts[:1], (64, 64), [1], steps=4, guidance=8, rescale=0)).abs().max() > 1e-3


def test_full_rescale_gives_the_spread_of_the_unguided_answer(base, unet, texts):
    from mapo_studio.trainer.sampling.sampler import _stacked
    from mapo_studio.trainer.sampling.sampler import classifier_free_guidance as answered

    noisy, framing = torch.randn(1, 4, 16, 16), torch.tensor([[64, 64, 0, 0, 64, 64]])
    yes, no = (_stacked([t], CPU) for t in texts[0])
    ask = (base, unet, noisy, torch.tensor(500), yes, no, framing)
    with torch.no_grad():
        plain, guided, mended = (answered(*ask, g, r, False) for g, r in ((1, 0), (9, 0), (9, 1)))
    close(mended.std(), plain.std())
    assert guided.std() > 1.01 * plain.std() or guided.std() < 0.99 * plain.std()
    close(mended / mended.std(), guided / guided.std())


def test_progress_counts_the_steps_of_all_batches(base, unet, texts):
    told = []
    sample(base, unet, texts, (64, 64), [1, 2, 3], steps=2, batch_size=2, progress=lambda *at: told.append(at))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_progress_raises_ends_the_painting(base, unet, texts):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(base, unet, texts[:1], (64, 64), [1], steps=2, progress=stop)


def test_nothing_to_paint_gives_nothing(base, unet):
    latents = sample(base, unet, [], (64, 64), [])
    assert latents.shape == (0, 4, 16, 16)
    assert decode(None, latents) == []


def test_a_size_that_the_latents_cannot_have_is_refused(base, unet, texts):
    with pytest.raises(UserError, match="multiples of 4"):
        sample(base, unet, texts[:1], (66, 64), [1])


def test_as_many_pictures_at_once_as_make_a_megapixel(base, unet, texts, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        type(base), "predict", lambda self, unet, noisy, *rest: sizes.append(len(noisy)) or torch.zeros_like(noisy)
    )
    many, seeds = [texts[0]] * 20, list(range(20))
    sample(base, unet, many, (64, 64), seeds, steps=1, guidance=1)
    sample(base, unet, many[:6], (512, 512), seeds[:6], steps=1, guidance=1)
    sample(base, unet, many[:2], (1024, 1024), seeds[:2], steps=1, guidance=1)
    assert sizes == [16, 4, 4, 2, 1, 1]


def test_pictures_decode_as_the_vae_says(base):
    vae = base.load_vae(CPU)
    latents = torch.randn(2, 4, 16, 12)
    pictures = decode(vae, latents)
    assert [p.size for p in pictures] == [(48, 64)] * 2
    with torch.no_grad():
        values = vae.decode(latents[1:] / vae.config.scaling_factor).sample[0]
    red = ((values[0, 5, 7] / 2 + 0.5).clamp(0, 1) * 255).round().item()
    assert pictures[1].getpixel((7, 5))[0] == pytest.approx(red, abs=1)


def test_a_picture_that_is_no_number_is_said_to_be(base, caplog):
    [picture] = decode(base.load_vae(CPU), torch.full((1, 4, 8, 8), float("nan")))
    assert picture.getextrema() == ((0, 0),) * 3
    assert "not numbers" in caplog.text


def test_decoding_goes_on_in_tiles_when_memory_is_short(base, monkeypatch):
    vae = base.load_vae(CPU)
    decode_whole, tried = vae.decode, []

    def short(latents):
        tried.append(vae.use_tiling)
        if not vae.use_tiling:
            raise torch.OutOfMemoryError
        return decode_whole(latents)

    monkeypatch.setattr(vae, "decode", short)
    assert len(decode(vae, torch.randn(2, 4, 8, 8))) == 2
    assert tried == [False, True, True]


@pytest.fixture
def lora(base, tmp_path):
    """A LoRA file, and its state."""
    settings = LoraSettings(rank=4, alpha=8)
    model = base.load_unet(CPU, torch.float32)
    attach(model, settings, seed=0)
    state = random_lora_state(model)
    load_lora_state_dict(model, state)
    return write_lora(tmp_path / "taste.safetensors", model, settings, "sdxl"), settings, state


def random_lora_state(model):
    generator = torch.Generator().manual_seed(3)
    return {
        name.replace(".mapo.", "."): torch.randn(p.shape, generator=generator) * 0.2
        for name, p in model.named_parameters()
        if ".lora_" in name
    }


def test_a_lora_file_changes_the_pictures_as_the_trained_model_would(base, lora, texts):
    path, settings, state = lora
    trained = base.load_unet(CPU, torch.float32)
    attach(trained, settings, seed=0)
    load_lora_state_dict(trained, state)
    plan = {"seeds": [5], "steps": 3, "device": CPU}
    [with_file] = generate(base, ["a red fox"], path, **plan)
    [without] = generate(base, ["a red fox"], **plan)
    [expected] = decode(base.load_vae(CPU), sample(base, trained, texts[:1], (64, 64), [5], steps=3))
    with disabled(trained):
        [off] = decode(base.load_vae(CPU), sample(base, trained, texts[:1], (64, 64), [5], steps=3))
    assert with_file.tobytes() == expected.tobytes()
    assert without.tobytes() == off.tobytes()
    assert with_file.tobytes() != without.tobytes()
    [nothing] = generate(base, ["a red fox"], path, strength=0.0, **plan)
    assert nothing.tobytes() == without.tobytes()


def test_a_lora_of_another_family_is_refused(lora, tmp_path):
    path, *_ = lora
    with pytest.raises(UserError, match="made for the sdxl family"):
        generate(open_base(write_sd15(tmp_path / "one")), ["a"], path)


def test_only_one_model_is_held_at_a_time(base, monkeypatch):
    import weakref

    held = []
    for name in ("load_text", "load_unet", "load_vae"):
        load = getattr(type(base), name)

        def watched(self, *args, load=load):
            assert not any(model() for model in held), "two models at once"
            model = load(self, *args)
            held.append(weakref.ref(model))
            return model

        monkeypatch.setattr(type(base), name, watched)
    assert len(generate(base, ["a", "b"], steps=1, device=CPU)) == 2
    assert len(held) == 3
