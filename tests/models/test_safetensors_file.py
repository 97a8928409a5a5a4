"""The reader of .safetensors files against the library's own."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.torch
import torch
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.models.safetensors_file import read_header

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (4, 2, 1, 1), ()])
def test_an_array_has_the_numbers_of_the_tensor(tmp_path, dtype, shape):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 100
    stored = {"a": values.to(dtype), "b": torch.full(shape, -0.0).to(dtype)}
    safetensors.torch.save_file(stored, tmp_path / "some.safetensors")
    file = read_header(tmp_path / "some.safetensors")
    for name, tensor in stored.items():
        array = file.array(name)
        exact = tensor.double().numpy()
        assert array.dtype == (np.float64 if dtype == torch.float64 else np.float32)
        assert array.shape == shape
        assert array.astype(np.float64).tobytes() == exact.tobytes()


def test_an_array_that_is_cut_off_is_told_with_its_name(tmp_path):
    path = tmp_path / "some.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(100)}, path)
    file = read_header(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="weight has no room in it"):
        file.array("weight")
