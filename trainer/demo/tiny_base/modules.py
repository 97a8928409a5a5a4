"""What the tiny base is built of: SDXL's structure, block for block, at a few channels.

Every module has the name it has in SDXL, so adapters, file formats and memory estimates meet the same names in both.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TEXT_WIDTH = 64
"""Width of each text encoder; the UNet sees both side by side."""

LATENT_SIDE = 16
"""Width and height of the latents of a 64 x 64 picture."""


def new_vae() -> AutoencoderKL:
    """Three levels, factor 4: (3, 64, 64) <-> (4, 16, 16). The scaling factor is set once it is trained."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 16, 32),
        layers_per_block=1,
        # Few and wide groups: a flat background must survive being normalised.
        norm_num_groups=2,
        latent_channels=4,
        sample_size=64,
        force_upcast=False,
    )
    _start_as_thumbnail(vae)
    return vae


def new_text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Two layers each, as SDXL takes the last but one. The first has CLIP's quick GELU, the second OpenCLIP's GELU."""

    def config(activation: str) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            hidden_act=activation,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.eos_token_id,
        )

    return CLIPTextModel(config("quick_gelu")), CLIPTextModelWithProjection(config("gelu"))


def new_unet() -> UNet2DConditionModel:
    """SDXL's UNet with 32, 64 and 64 channels, one layer a block; attention at 8 x 8 and 4 x 4."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 64),
        layers_per_block=1,
        transformer_layers_per_block=[1, 1, 2],
        attention_head_dim=[1, 2, 2],
        cross_attention_dim=2 * TEXT_WIDTH,
        norm_num_groups=8,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=TEXT_WIDTH + 6 * 32,
    )


def new_scheduler() -> EulerDiscreteScheduler:
    """SDXL's noise schedule and default sampler."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
    )


@torch.no_grad()
def _start_as_thumbnail(vae: AutoencoderKL) -> None:
    """Set the weights so that three latents are the picture's colours at a quarter of its size, and back.

    From random weights such an autoencoder spends most of its training on passing a flat background through its
    normalisations. From here it only has to learn what a thumbnail loses: sharp edges.
    """
    for name, module in vae.named_modules():
        if name.endswith(("conv2", "to_out.0")):
            # Residual branches begin silent.
            module.weight.zero_()
            module.bias.zero_()
        elif name.endswith("downsamplers.0.conv"):
            _copy_colours(module)
            for channel in range(3):
                module.weight[channel, channel] = 0
                module.weight[channel, channel, :2, :2] = 0.25
        elif name.endswith(("conv_shortcut", "conv_in", "conv_out", "upsamplers.0.conv")):
            _copy_colours(module)
    for coder, last in ((vae.encoder, vae.encoder.down_blocks[-1]), (vae.decoder, vae.decoder.up_blocks[-1])):
        # Channels far apart make a group's deviation nearly constant, and a large bias puts SiLU where it is linear.
        offset = torch.tensor([3.0, -3.0]).repeat(coder.conv_norm_out.num_channels // 2)
        last.resnets[0].conv_shortcut.bias.copy_(offset)
        coder.conv_norm_out.weight.fill_(3.0)
        coder.conv_norm_out.bias.copy_(4.0 - offset)
        coder.conv_out.bias[:3] = -4.0
    # Light backgrounds lie around 0.75; SDXL's pipeline scales latents but never shifts them, so they are centred here.
    middle, gain = 0.75, 2.5
    vae.encoder.conv_out.weight[:3] *= gain
    vae.encoder.conv_out.bias[:3] = gain * (-4.0 - middle)
    vae.decoder.conv_in.weight[:3] /= gain
    vae.decoder.conv_in.bias[:3] = middle
    # The last four outputs are log variances: latents begin nearly exact.
    vae.encoder.conv_out.weight[4:] = 0
    vae.encoder.conv_out.bias[4:] = -6.0
    for convolution in (vae.quant_conv, vae.post_quant_conv):
        convolution.weight.copy_(torch.eye(convolution.out_channels)[..., None, None])
        convolution.bias.zero_()


def _copy_colours(convolution: torch.nn.Conv2d) -> None:
    """Let the first three channels pass unchanged; the others keep their random weights."""
    middle = convolution.kernel_size[0] // 2
    convolution.weight[:3] = 0
    convolution.bias[:3] = 0
    for channel in range(3):
        convolution.weight[channel, channel, middle, middle] = 1
