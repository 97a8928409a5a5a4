"""Which small models do tests load? Folders of both families with random weights, and the same as single files.

No parameter keeps its usual start (ones, zeros): two that were swapped in loading would otherwise look the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

TOKENS = 16
"""Context length of the tiny text encoders."""
START, END = "<|startoftext|>", "<|endoftext|>"


def write_sdxl(
    folder: Path, *, seed: int = 0, scheduler: Mapping[str, object] | None = None, shallow: bool = False
) -> Path:
    """A diffusers folder of an SDXL-shaped model: 64 px, latent factor 4, text 16 + 24 wide. Returns `folder`.

    shallow: as few blocks as there can be of each kind, for tests that train.
    """
    from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

    vocabulary = write_tokenizer(folder / "tokenizer", END)
    write_tokenizer(folder / "tokenizer_2", "!")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 1, 1) if shallow else (1, 1, 2),
            attention_head_dim=(1, 2, 2),
            layers_per_block=1 if shallow else 2,
            norm_num_groups=8,
            cross_attention_dim=40,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
        )
        first, second = _text_encoder(vocabulary, 16), _text_encoder(vocabulary, 24, projected=True)
        vae = _vae()
        for model in (unet, vae, first, second):
            scatter(model)
    StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=_tokenizer(folder / "tokenizer"),
        tokenizer_2=_tokenizer(folder / "tokenizer_2"),
        unet=unet,
        scheduler=_scheduler(scheduler),
    ).save_pretrained(folder)
    return folder


def write_sd15(
    folder: Path, *, seed: int = 0, scheduler: Mapping[str, object] | None = None, latent_channels: int = 4
) -> Path:
    """A diffusers folder of an SD 1.5-shaped model: 64 px, latent factor 4, text 16 wide. Returns `folder`."""
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    vocabulary = write_tokenizer(folder / "tokenizer", END)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=(16, 32, 32),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
            attention_head_dim=4,
            layers_per_block=2,
            norm_num_groups=8,
            cross_attention_dim=16,
        )
        text, vae = _text_encoder(vocabulary, 16), _vae(latent_channels)
        for model in (unet, vae, text):
            scatter(model)
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=_tokenizer(folder / "tokenizer"),
        unet=unet,
        scheduler=_scheduler(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_clip(folder: Path, side: int) -> Path:
    """A CLIP as PickScore's: config.json, model.safetensors, a tokenizer and preprocessor_config.json.

    It sees pictures of side x side px and gives 12 numbers for each. Returns `folder`.
    """
    from transformers import CLIPConfig, CLIPModel

    vocabulary = write_tokenizer(folder, END)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}, "resample": 3})
    )
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    end = vocabulary - 1
    text = {**small, "vocab_size": vocabulary, "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(
            CLIPConfig(
                text_config=text, vision_config={**small, "image_size": side, "patch_size": 8}, projection_dim=12
            )
        ).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path, pad: str) -> int:
    """A CLIP tokenizer that knows single ASCII letters and "red". Returns the size of its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in range(33, 127)]  # "!" is token 0, as in CLIP's own
    tokens = [*letters, *(letter + "</w>" for letter in letters), "re", "red</w>", START, END]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "pad_token": pad}
    config |= {"bos_token": START, "eos_token": END, "unk_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


def scatter(model: nn.Module) -> None:
    """Move every parameter off its start."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)


def ldm_unet(state: Mapping[str, Tensor], blocks: int, layers: int) -> dict[str, Tensor]:
    """diffusers' UNet names -> those of single files; `blocks` levels of `layers` residual blocks each."""
    tops = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    span = layers + 1
    with_attention = {int(m[1]) for name in state if (m := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    named = {}
    for name, tensor in state.items():
        new = next((ldm + name.removeprefix(ours) for ours, ldm in tops.items() if name.startswith(ours + ".")), None)
        if m := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", name):
            side, block, kind, layer, rest = m[1], int(m[2]), m[3], int(m[4]), m[5]
            place = (
                f"input_blocks.{1 + block * span + layer}"
                if side == "down"
                else f"output_blocks.{block * span + layer}"
            )
            new = f"{place}.0.{_ldm_resnet(rest)}" if kind == "resnets" else f"{place}.1.{rest}"
        elif m := re.match(r"down_blocks\.(\d+)\.downsamplers\.0\.conv\.(.*)", name):
            new = f"input_blocks.{(int(m[1]) + 1) * span}.0.op.{m[2]}"
        elif m := re.match(r"up_blocks\.(\d+)\.upsamplers\.0\.conv\.(.*)", name):
            spot = 2 if int(m[1]) in with_attention else 1
            new = f"output_blocks.{int(m[1]) * span + layers}.{spot}.conv.{m[2]}"
        elif m := re.match(r"mid_block\.resnets\.(\d)\.(.*)", name):
            new = f"middle_block.{2 * int(m[1])}.{_ldm_resnet(m[2])}"
        elif m := re.match(r"mid_block\.attentions\.0\.(.*)", name):
            new = f"middle_block.1.{m[1]}"
        assert new is not None, name
        named["model.diffusion_model." + new] = tensor
    return named


def ldm_vae(state: Mapping[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """diffusers' VAE names -> those of single files, whose attention is made of 1x1 convolutions."""
    named = {}
    for name, tensor in state.items():
        new = re.sub(r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{blocks - 1 - int(m[1])}", name)
        new = re.sub(r"encoder\.down_blocks\.(\d+)", r"encoder.down.\1", new)
        new = new.replace(".resnets.", ".block.").replace("samplers.0.conv", "sample.conv")
        new = re.sub(r"mid_block\.block\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0." in new:
            new = new.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
            new = re.sub(r"to_([qkv])\.", r"\1.", new).replace("to_out.0", "proj_out")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        named["first_stage_model." + new] = tensor
    return named


def ldm_clip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The first text encoder, in the names (and with the constant) that old transformers saved it in."""
    named = {f"{prefix}text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in state.items()}
    named[prefix + "text_model.embeddings.position_ids"] = torch.arange(TOKENS)[None]
    return named


def ldm_open_clip(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The second text encoder, in OpenCLIP's names."""
    named = {}
    for name, tensor in state.items():
        new = name.removeprefix("text_model.")
        if new == "text_projection.weight":
            new, tensor = "text_projection", tensor.T
        new = new.replace("embeddings.position_embedding.weight", "positional_embedding")
        new = new.replace("embeddings.token_embedding", "token_embedding").replace("final_layer_norm", "ln_final")
        new = new.replace("encoder.layers.", "transformer.resblocks.").replace("layer_norm", "ln_")
        new = new.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj").replace("self_attn.", "attn.")
        if ".q_proj." in new:
            parts = [state[name.replace(".q_proj.", f".{part}_proj.")] for part in "qkv"]
            new, tensor = new.replace("q_proj.", "in_proj_"), torch.cat(parts)
        elif re.search(r"\.[kv]_proj\.", new):
            continue
        named[prefix + new] = tensor
    named[prefix + "logit_scale"] = torch.tensor(4.6)
    return named


def ldm_names(family: str, models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """A whole model as the tensors of a single file; `models` by their folder names in diffusers' layout."""
    unet, vae = models["unet"], models["vae"]
    blocks = len(unet.config["block_out_channels"])
    named = ldm_unet(unet.state_dict(), blocks, unet.config["layers_per_block"])
    named |= ldm_vae(vae.state_dict(), len(vae.config["block_out_channels"]))
    if family == "sdxl":
        named |= ldm_clip(models["text_encoder"].state_dict(), "conditioner.embedders.0.transformer.")
        return named | ldm_open_clip(models["text_encoder_2"].state_dict(), "conditioner.embedders.1.model.")
    return named | ldm_clip(models["text_encoder"].state_dict(), "cond_stage_model.transformer.")


def write_sparse(path: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str] | None = None) -> Path:
    """A float16 safetensors file of zeros that takes no room on disk. Returns `path`."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        file.truncate(8 + len(encoded) + end)
    return path


def write_null_metadata(source: Path, target: Path) -> Path:
    """`source` with the header entry `"__metadata__": null`, as some tools write it. Returns `target`."""
    data = source.read_bytes()
    body = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps({**json.loads(data[8:body]), "__metadata__": None}).encode()
    header += b" " * (-len(header) % 8)
    target.write_bytes(len(header).to_bytes(8, "little") + header + data[body:])
    return target


def _ldm_resnet(name: str) -> str:
    for ours, ldm in (
        ("norm1", "in_layers.0"),
        ("conv1", "in_layers.2"),
        ("norm2", "out_layers.0"),
        ("conv2", "out_layers.3"),
        ("time_emb_proj", "emb_layers.1"),
        ("conv_shortcut", "skip_connection"),
    ):
        name = name.replace(ours, ldm)
    return name


def _text_encoder(vocabulary: int, width: int, projected: bool = False) -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=2 * width,
        projection_dim=width,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        hidden_act="gelu" if projected else "quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=2,  # as the published models have it: the end token is found as the largest id
        pad_token_id=1,
        architectures=[kind.__name__],
    )
    return kind(config).eval()


def _vae(latent_channels: int = 4) -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=4,
        sample_size=64,
        scaling_factor=0.5,
    )


def _tokenizer(folder: Path):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)


def _scheduler(changes: Mapping[str, object] | None):
    from diffusers import EulerDiscreteScheduler

    usual = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    usual |= {"timestep_spacing": "leading", "steps_offset": 1}
    return EulerDiscreteScheduler(**usual | dict(changes or {}))
