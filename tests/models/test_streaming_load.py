"""Is a UNet loaded in the memory that it takes in the end, and one weight?"""

from __future__ import annotations

import weakref

import pytest
import torch
from diffusers import UNet2DConditionModel
from mapo_studio.tests.tiny_models import ldm_unet
from mapo_studio.trainer.errors import UserError
from mapo_studio.trainer.models.memory_saving.quantize import to_quantized_empty
from mapo_studio.trainer.models.safetensors_file import SafetensorsFile, read_header
from mapo_studio.trainer.models.sources import Folder, SingleFile
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")
WIDE = {
    "sample_size": 16,
    "block_out_channels": (64, 128, 256),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 1, 2),
    "attention_head_dim": (1, 2, 4),
    "layers_per_block": 2,
    "cross_attention_dim": 40,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24 + 6 * 8,
}


class Living(TorchDispatchMode):
    """The most bytes of storages with numbers that lived at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self._known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, torch.Tensor) and one.device.type != "meta":
                self._count(one.untyped_storage())
        return made

    def _count(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._end, key, size)

    def _end(self, key, size):
        self._known.discard(key)
        self.now -= size


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The same UNet, 50 MB in float32, in a folder and in a single file."""
    folder = tmp_path_factory.mktemp("wide")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**WIDE)
    unet.save_pretrained(folder / "unet")
    named = ldm_unet(unet.state_dict(), 3, 2)
    save_file({name: weight.contiguous() for name, weight in named.items()}, folder / "model.safetensors")
    return Folder(folder), SingleFile(read_header(folder / "model.safetensors"), "sdxl", configs=folder)


@pytest.mark.parametrize("how", ["none", "int8", "nf4", "fp8"])
@pytest.mark.parametrize("place", [0, 1], ids=["folder", "single file"])
def test_loading_takes_the_stored_unet_and_one_weight(place, how, wide):
    with torch.device("meta"):
        whole = UNet2DConditionModel.from_config(wide[0].config("unet"))
    largest = max(weight.nbytes for weight in whole.state_dict().values())
    empty = to_quantized_empty(whole, how, torch.bfloat16, CPU)
    stored = sum(weight.untyped_storage().nbytes() for weight in empty.parameters())
    with Living() as living:
        unet = wide[place].unet(CPU, torch.bfloat16, how)
    assert stored <= living.most <= stored + 5 * largest, "packing makes a few copies of one weight"
    assert living.now <= stored + 4096
    assert sum(one.untyped_storage().nbytes() for one in unet.parameters()) == stored


@pytest.mark.parametrize("how", ["none", "int8", "nf4", "fp8"])
def test_a_single_files_unet_is_the_folders(how, wide):
    folder, single = (source.unet(CPU, torch.float32, how).state_dict() for source in wide)
    assert folder.keys() == single.keys()
    for name, weight in folder.items():
        mine, other = (one.reshape(-1).view(torch.uint8) for one in (weight, single[name]))
        assert torch.equal(mine, other), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.bool])
def test_a_tensor_is_read_as_it_was_written(dtype, tmp_path):
    weights = {"a": torch.randn(3, 5).to(dtype), "b": torch.ones(()).to(dtype), "c": torch.empty(0, 4).to(dtype)}
    save_file(weights, tmp_path / "some.safetensors")
    file = read_header(tmp_path / "some.safetensors")
    for name, weight in weights.items():
        found = file.tensor(name)
        assert (found.dtype, found.shape) == (weight.dtype, weight.shape)
        assert torch.equal(found.float(), weight.float())


def test_a_file_that_shrank_since_it_was_opened_is_not_whole(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"a": torch.randn(100)}, path)
    file = read_header(path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match="ends within a"):
        file.tensor("a")


def test_a_header_that_gives_a_tensor_too_little_room_is_not_believed(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"a": torch.randn(100)}, path)
    path.write_bytes(path.read_bytes().replace(b"[100]", b"[110]"))
    with pytest.raises(UserError, match="a has no room"):
        read_header(path).tensor("a")


@pytest.mark.parametrize("how", ["none", "nf4"])
def test_a_weight_of_another_shape_is_named_before_any_is_read(how, wide, tmp_path, monkeypatch):
    weights = load_file(next((wide[0].path / "unet").glob("*.safetensors")))
    weights["conv_in.weight"] = weights["conv_in.weight"][:-1].clone()
    (tmp_path / "unet").mkdir()
    save_file(weights, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    (tmp_path / "unet" / "config.json").write_text((wide[0].path / "unet" / "config.json").read_text())
    monkeypatch.setattr(SafetensorsFile, "tensor", lambda *_: pytest.fail("read"))
    with pytest.raises(UserError, match=r"other shapes for 1 weights \(the first: conv_in.weight\)"):
        Folder(tmp_path).unet(CPU, torch.float32, how)
