"""A run on real photographs: pairs of one and a spoiled copy of it, as Pick-a-Pic parquet, on the tiny base."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skimage.data
from mapo_studio.trainer.cli.main import main
from mapo_studio.trainer.runs.run_folder import Run
from PIL import Image

PHOTOGRAPHS = {
    "an astronaut": "astronaut",
    "a cat": "chelsea",
    "a cup of coffee": "coffee",
    "a galaxy": "hubble_deep_field",
    "an eye": "retina",
    "a rocket": "rocket",
    "a man with a camera": "camera",
    "grass": "grass",
    "gravel": "gravel",
    "bricks": "brick",
    "the moon": "moon",
    "coins": "coins",
}


def jpeg(picture: Image.Image, quality: int = 95) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def spoiled(picture: Image.Image) -> Image.Image:
    """What artists reject: a faded copy with a colour cast."""
    faded = np.asarray(picture, dtype=float) * 0.5 + np.array([90, 0, 60])
    return Image.fromarray(np.clip(faded, 0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def parquet(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = []
    for caption, name in PHOTOGRAPHS.items():
        whole = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        for _ in range(5):
            side = int(min(whole.size) * rng.uniform(0.5, 0.9))
            left, top = (int(rng.integers(0, length - side + 1)) for length in whole.size)
            crop = whole.crop((left, top, left + side, top + side)).resize((96, 96))
            pictures, won = [jpeg(crop), jpeg(spoiled(crop))], int(rng.integers(2))
            if won:
                pictures.reverse()
            labels = [float(won == 0), float(won == 1)]
            rows.append([caption, *pictures, *labels])
    rows.append(["a tie", jpeg(Image.new("RGB", (96, 96))), jpeg(Image.new("RGB", (96, 96), "red")), 0.5, 0.5])
    columns = zip(*rows, strict=True)
    table = pa.table(dict(zip(("caption", "jpg_0", "jpg_1", "label_0", "label_1"), map(list, columns), strict=True)))
    file = tmp_path_factory.mktemp("photographs") / "train.parquet"
    pq.write_table(table, file, row_group_size=16)
    return file


@pytest.mark.slow
def test_a_taste_for_clean_photographs_is_learned_from_parquet(parquet, tmp_path, capfd):
    words = f"""train --base tiny --pairs {parquet} --name photos --workspace {tmp_path} --held-out 0.3 --rank 8
        --learning-rate 1e-3 --steps 60 --batch-size 4 --accumulation 1 --margin-weight 0.1 --temperature 1000
        --error-scale 0.5 --evaluate-every 30 --sample-every 0 --json"""
    assert main(words.split()) == 0
    said = json.loads(capfd.readouterr().out.splitlines()[-1])
    events = list(Run.open(tmp_path, "photos").events())
    (started,) = [event for event in events if event["event"] == "started"]
    assert started["pairs"] + started["held_out"] == 60
    assert [one["count"] for one in started["left_out"]] == [1]
    measured = [event for event in events if event["event"] == "evaluation"]
    assert measured[0]["pairs"] >= 10
    assert said["agreement"] == measured[-1]["agreement"]
    assert measured[0]["agreement"] <= 0.2, "faded pictures are the easier ones to paint, before anything is learned"
    assert measured[-1]["agreement"] >= 0.9
    assert measured[-1]["margin"] > measured[0]["margin"]
    assert measured[-1]["chosen_error"] < measured[0]["chosen_error"]
