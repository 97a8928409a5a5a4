"""Scorers on tiny random CLIP models in the real layouts: the same numbers as by hand, and what is refused."""

import json
import re

import numpy as np
import pytest
import torch
from mapo_studio.tests.tiny_models import write_clip
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.evaluation.scorers import models
from mapo_studio.trainer.evaluation.scorers.models import ImagePreprocessor, open_scorer, read_preprocessor, why_absent
from mapo_studio.trainer.evaluation.scorers.score import Scores, score_pairs, scorer_result
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPModel, CLIPTokenizer

CPU = torch.device("cpu")
SIDE = 32


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip"), SIDE)


@pytest.fixture
def pictures():
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 56, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in noise]


def by_hand(clip, prompts, pictures):
    """transformers' own way from tokens and pixels to logits_per_image, whose diagonal is each with its own."""
    model, tokenizer = CLIPModel.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip)
    tokens = tokenizer(prompts, padding=True, return_tensors="pt")
    pixels = torch.from_numpy(ImagePreprocessor(SIDE, SIDE).batch(pictures))
    with torch.no_grad():
        return model(**tokens, pixel_values=pixels).logits_per_image.diagonal().tolist()


def test_pickscore_is_what_transformers_gives(clip, pictures, monkeypatch):
    monkeypatch.setattr(models, "_BATCH_SIZE", 2)
    prompts = ["a red cat", "a blue cat", "red"]
    found = open_scorer(f"pickscore={clip}", CPU).score(prompts, pictures)
    assert found == pytest.approx(by_hand(clip, prompts, pictures), abs=1e-4)
    assert len(set(found)) == 3


def test_another_prompt_gives_another_score(clip, pictures):
    scorer = open_scorer(f"hps={clip}", CPU)
    assert scorer.name == "HPS v2.1"
    assert scorer.score(["a red cat"], pictures[:1]) != scorer.score(["blue"], pictures[:1])


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_the_aesthetic_head_is_its_layers_one_after_the_other(clip, pictures, tmp_path, ending):
    torch.manual_seed(1)
    layers = {0: torch.nn.Linear(12, 8), 2: torch.nn.Linear(8, 4), 10: torch.nn.Linear(4, 1)}
    state = {f"layers.{n}.{kind}": value for n, one in layers.items() for kind, value in one.state_dict().items()}
    head = tmp_path / f"head.{ending}"
    save_file(state, head) if ending == "safetensors" else torch.save(state, head)
    found = open_scorer(f"aesthetic={head},{clip}", CPU).score(["whatever"] * 3, pictures)
    model = CLIPModel.from_pretrained(clip)
    with torch.no_grad():
        seen = model.vision_model(
            pixel_values=torch.from_numpy(ImagePreprocessor(SIDE, SIDE).batch(pictures))
        ).pooler_output
        seen = torch.nn.functional.normalize(model.visual_projection(seen), dim=-1)
        for layer in layers.values():
            seen = layer(seen)
    assert found == pytest.approx(seen.squeeze(-1).tolist(), abs=1e-5)


def test_a_head_that_is_more_than_weights_is_not_run(clip, tmp_path):
    torch.save({"layers.0.weight": print}, tmp_path / "head.pth")
    with pytest.raises(UserError, match="cannot be read as weights alone"):
        open_scorer(f"aesthetic={tmp_path / 'head.pth'},{clip}", CPU)


def test_a_head_for_another_clip_is_refused(clip, tmp_path):
    save_file({"weight": torch.zeros(1, 768), "bias": torch.zeros(1)}, tmp_path / "head.safetensors")
    with pytest.raises(UserError, match=r"768 numbers, and .* gives 12"):
        open_scorer(f"aesthetic={tmp_path / 'head.safetensors'},{clip}", CPU)


def test_absent_weights_are_said_and_the_others_still_score(clip, pictures, tmp_path):
    files = []
    for number, picture in enumerate(pictures[:2]):
        picture.save(tmp_path / f"{number}.png")
        files.append(tmp_path / f"{number}.png")
    rows, absent = score_pairs([f"hps={tmp_path / 'nowhere'}", f"pickscore={clip}"], [("a red cat", *files)])
    assert [row.scorer for row in rows] == ["PickScore"]
    assert absent == [f"Not scored by hps: there is no folder {tmp_path / 'nowhere'} with the weights of HPS v2.1"]
    before, after = by_hand(clip, ["a red cat"] * 2, pictures[:2])
    assert (rows[0].before, rows[0].after) == pytest.approx((before, after), abs=1e-4)


def test_what_the_hub_does_not_give_is_said(monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect,\n  and it is not in the cache")

    monkeypatch.setattr(CLIPModel, "from_pretrained", offline)
    said = (
        r"the weights of PickScore cannot be loaded from some/model \(We couldn't connect, and it is not in the cache\)"
    )
    assert re.fullmatch(said, why_absent("pickscore=some/model"))


def test_a_single_checkpoint_of_open_clip_is_refused_with_the_reason(tmp_path):
    (tmp_path / "HPS_v2.1_compressed.pt").write_bytes(b"x")
    with pytest.raises(UserError, match="has to be converted first"):
        open_scorer(f"hps={tmp_path / 'HPS_v2.1_compressed.pt'}", CPU)


@pytest.mark.parametrize("asked", ["pickscore", "taste=x", "=x", "pickscore="])
def test_what_names_no_scorer_is_said(asked):
    with pytest.raises(UserError, match="names no scorer"):
        open_scorer(asked, CPU)


def test_pictures_are_seen_as_transformers_image_processor_sees_them():
    """Its steps, written with its own functions, which need no torchvision."""
    from transformers.image_transforms import center_crop, get_resize_output_image_size, normalize, rescale, resize

    own = ImagePreprocessor(24, 20)
    for size in ((40, 56), (57, 31), (24, 24)):
        pixels = np.random.default_rng(1).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        wanted = get_resize_output_image_size(pixels, 24, default_to_square=False, input_data_format="channels_last")
        there = resize(pixels, wanted, resample=3, input_data_format="channels_last")
        there = center_crop(there, (20, 20), input_data_format="channels_last")
        there = rescale(there, 1 / 255, input_data_format="channels_last")
        there = normalize(there, own.mean, own.deviation, input_data_format="channels_last")
        ours = own.batch([Image.fromarray(pixels)])[0]
        assert np.abs(ours - there.transpose(2, 0, 1)).max() < 1e-5, size


def test_older_and_newer_preprocessor_configs_are_read(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"size": 224, "crop_size": 200, "image_mean": [0, 0, 0]})
    )
    assert read_preprocessor(tmp_path, 32) == ImagePreprocessor(224, 200, (0, 0, 0))
    assert read_preprocessor(None, 32) == ImagePreprocessor(32, 32)


def test_the_interval_is_by_prompt_so_that_alike_pictures_promise_no_more():
    before = [0.0] * 40
    after = [1.0 if number % 4 == 0 else -0.2 for number in range(40)]
    alone = scorer_result("x", [str(number) for number in range(40)], before, after)
    together = scorer_result("x", [str(number % 4) for number in range(40)], before, after)
    assert alone.change == together.change == pytest.approx(0.1)
    assert together.high - together.low > alone.high - alone.low
    assert (alone.higher, alone.pairs) == (10, 40)


def test_a_difference_that_may_be_chance_says_so():
    row = scorer_result("PickScore", ["a", "b", "c"], [20.0, 21.0, 22.0], [20.5, 20.6, 22.2])
    assert row.difference.endswith("may be chance")
    assert "33 %" not in row.share
    said = Scores(3, 3, (row,), ("Not scored by hps: gone",)).text()
    assert "PickScore  21.00 -> 21.10" in said
    assert said.endswith("Not scored by hps: gone.")
