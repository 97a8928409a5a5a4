"""What several formats' tests need: small pictures that all differ, and their bytes."""

import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture_bytes():
    """picture_bytes(seed, size=(16, 12), kind="PNG"): a picture file of noise; the same for the same arguments."""

    def make(seed, size=(16, 12), kind="PNG"):
        pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        return file.getvalue()

    return make


@pytest.fixture(scope="session")
def counted():
    """counted(pair_set): what was left out, as {start of the reason: count}."""

    def tell(pair_set):
        return {one.reason.split(":")[0]: one.count for one in pair_set.left_out}

    return tell
