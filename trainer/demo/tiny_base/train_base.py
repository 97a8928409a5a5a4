"""Training of the tiny base: everything is trained from scratch on drawn pictures, in one command.

    python -m mapo_studio.trainer.demo.tiny_base.train_base --out trainer/demo/tiny_base/weights --work /tmp/base

Four stages, each frozen before the next: text encoders learn to tell what a caption names, the autoencoder learns to
copy pictures, the UNet learns to paint latents for captions, and the folder is written in half precision.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from rich.console import Console
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from ..shapes_world import SIDE, captioned_scenes, captions, draw, dress
from .modules import new_scheduler, new_text_encoders, new_unet, new_vae
from .tokenizers import write_tokenizers

OUTLINED_SHARE = 0.43
"""Share of outlined training pictures: neither rare nor the rule, so that a taste has room in both directions."""

SEED = 20


@dataclass(frozen=True)
class Pictures:
    """Drawn pictures, uint8 (count, 3, 64, 64), and for each the index of its caption in `captions()`."""

    pixels: torch.Tensor
    caption: torch.Tensor

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        """Float pixels in [-1, 1], shape (rows, 3, 64, 64)."""
        return self.pixels[rows].float() / 127.5 - 1


@dataclass(frozen=True)
class Conditions:
    """Conditions of the UNet: context (n, tokens, 128) and pooled (n, 64), a row per caption, then "", then zeros."""

    context: torch.Tensor
    pooled: torch.Tensor


def main(arguments: list[str] | None = None) -> None:
    """Train and write the base."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write, in diffusers layout")
    parser.add_argument("--work", type=Path, required=True, help="folder for what a stopped run goes on from")
    parser.add_argument("--per-caption", type=int, default=100, help="drawn pictures per caption")
    parser.add_argument("--vae-steps", type=int, default=1200)
    parser.add_argument("--unet-steps", type=int, default=2600)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; another number rounds differently")
    options = parser.parse_args(arguments)
    started = time.time()
    torch.set_num_threads(options.threads)
    torch.manual_seed(SEED)

    words = sorted({word for caption in captions() for word in caption.split()})
    write_tokenizers(options.out, words)
    tokenizers = [CLIPTokenizer.from_pretrained(options.out / name) for name in ("tokenizer", "tokenizer_2")]
    pictures = draw_pictures(options.per_caption)
    say(f"drew {len(pictures.caption)} pictures", started)

    encoders = new_text_encoders(tokenizers[0])
    accuracy = train_text_encoders(encoders, tokenizers)
    say(f"text encoders name {accuracy:.1%} of attributes", started)
    with torch.no_grad():
        conditions = encode_captions(encoders, tokenizers)

    if (options.work / "vae").exists():
        vae = AutoencoderKL.from_pretrained(options.work / "vae").requires_grad_(False)
    else:
        vae = train_vae(new_vae(), pictures, options.vae_steps, started)
        vae.save_pretrained(options.work / "vae")
    latents = encode_pictures(vae, pictures)
    torch.manual_seed(SEED + 1)
    learning = UnetTraining(new_unet(), options.unet_steps, options.work / "unet.pt")
    unet = train_unet(learning, latents, pictures.caption, conditions, started)
    write_base(options.out, vae, encoders, tokenizers, unet)
    write_provenance(options.out, vars(options), time.time() - started)
    say(f"wrote {options.out}", started)


def say(text: str, started: float) -> None:
    """One line of progress, with the minutes since the start."""
    Console().print(f"{(time.time() - started) / 60:5.1f} min  {text}")


def draw_pictures(per_caption: int) -> Pictures:
    """`per_caption` pictures of every caption, free attributes by chance."""
    rng = np.random.default_rng(SEED)
    pixels, index = [], []
    for row, caption in enumerate(captions()):
        for _ in range(per_caption):
            pixels.append(np.asarray(draw(dress(caption, rng, outline=bool(rng.random() < OUTLINED_SHARE)))))
            index.append(row)
    return Pictures(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(), torch.tensor(index))


def train_text_encoders(encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection], tokenizers: list) -> float:
    """Teach both encoders to name colour, shape and position from the vectors that the UNet will see.

    Returns the share of attributes named right over all captions.
    """
    scenes = captioned_scenes()
    targets = [_indices([getattr(scene, field) for scene in scenes]) for field in ("colour", "shape", "position")]
    classes = [int(target.max()) + 1 for target in targets]
    width = encoders[0].config.hidden_size
    heads = nn.ModuleList(nn.Linear(width, sum(classes)) for _ in range(3))
    parameters = [*encoders[0].parameters(), *encoders[1].parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    end = tokenizers[0](captions()[0]).input_ids.index(tokenizers[0].eos_token_id)
    right = 0.0
    for _ in range(150):
        conditions = encode_captions(encoders, tokenizers)
        context, pooled = conditions.context[: len(scenes)], conditions.pooled[: len(scenes)]
        # Both encoders' next-to-last layer at the end token, and the second one's projection.
        seen = (context[:, end, :width], context[:, end, width:], pooled)
        loss, right = torch.zeros(()), 0.0
        for head, vector in zip(heads, seen, strict=True):
            for logits, target in zip(head(vector).split(classes, dim=1), targets, strict=True):
                loss = loss + F.cross_entropy(logits, target)
                right += float((logits.argmax(1) == target).float().mean()) / 9
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return right


def encode_captions(encoders: tuple[CLIPTextModel, CLIPTextModelWithProjection], tokenizers: list) -> Conditions:
    """Embed every caption, then the empty text, then add the zeros that SDXL uses for no text at all."""
    contexts, pooled = [], torch.empty(0)
    for encoder, tokenizer in zip(encoders, tokenizers, strict=True):
        tokens = tokenizer(
            [*captions(), ""],
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        out = encoder(tokens.input_ids, output_hidden_states=True)
        contexts.append(out.hidden_states[-2])
        pooled = out[0]
    context = torch.cat(contexts, dim=-1)
    return Conditions(F.pad(context, (0, 0, 0, 0, 0, 1)), F.pad(pooled, (0, 0, 0, 1)))


def train_vae(vae: AutoencoderKL, pictures: Pictures, steps: int, started: float) -> AutoencoderKL:
    """Teach the autoencoder to copy pictures, and set its scaling factor so that latents have unit variance.

    Most steps see quarter pictures, at a quarter of the cost; the last sixth sees whole ones, whose group statistics
    differ.
    """
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        pixels = pictures.batch(torch.randint(len(pictures.caption), (16,)))
        if step < steps * 5 // 6:
            top, left = torch.randint(0, SIDE // 2 + 1, (2,)).tolist()
            pixels = pixels[:, :, top : top + SIDE // 2, left : left + SIDE // 2]
        posterior = vae.encode(pixels).latent_dist
        copied = vae.decode(posterior.sample()).sample
        # The small pull towards a unit Gaussian centres the latents: SDXL's pipeline scales them but never shifts them.
        pull = posterior.kl().mean() / posterior.mean[0].numel()
        loss = F.l1_loss(copied, pixels) + F.mse_loss(copied, pixels) + 1e-4 * pull
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            error = F.l1_loss(copied, pixels)
            say(f"autoencoder step {step + 1}: L1 {error:.4f}, pull {pull:.2f}", started)
    # What is shipped is half precision, so the latents that the UNet learns come from exactly those weights.
    vae = vae.half().float().eval().requires_grad_(False)
    sample = torch.cat([vae.encode(pictures.batch(rows)).latent_dist.mode() for rows in _chunks(pictures)[::8]])
    vae.register_to_config(scaling_factor=float(1 / sample.std()))
    means = [round(mean, 3) for mean in sample.mean((0, 2, 3)).tolist()]
    say(f"latents: means {means}, deviation {float(sample.std()):.3f}", started)
    return vae


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: Pictures) -> torch.Tensor:
    """Scaled latents of all pictures, shape (count, 4, 16, 16)."""
    encoded = [vae.encode(pictures.batch(rows)).latent_dist.mode() for rows in _chunks(pictures)]
    return torch.cat(encoded) * vae.config.scaling_factor


class UnetTraining:
    """The UNet while it learns: its weights, their running average, and all that a stopped run goes on from."""

    def __init__(self, unet: UNet2DConditionModel, steps: int, file: Path) -> None:
        peak = 2e-3
        self.unet = unet.to(memory_format=torch.channels_last).train()
        self.average = copy.deepcopy(self.unet).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-3)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, peak, total_steps=steps, pct_start=0.06)
        self.steps, self.step, self.file = steps, 0, file
        self._parts = {name: getattr(self, name) for name in ("unet", "average", "optimizer", "schedule")}
        if file.exists():
            state = torch.load(file, weights_only=True)
            for name, part in self._parts.items():
                part.load_state_dict(state[name])
            self.step = state["step"]
            torch.set_rng_state(state["random"])

    def learn(self, loss: torch.Tensor) -> None:
        """One step down `loss`, and the average follows."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        keep = min(0.996, self.step / (10 + self.step))
        weights = [parameter.detach() for parameter in self.unet.parameters()]
        torch._foreach_lerp_(list(self.average.parameters()), weights, 1 - keep)

    def save(self) -> None:
        """Write the state to the file."""
        state = {name: part.state_dict() for name, part in self._parts.items()}
        torch.save({**state, "step": self.step, "random": torch.get_rng_state()}, self.file)


def train_unet(
    learning: UnetTraining, latents: torch.Tensor, caption: torch.Tensor, conditions: Conditions, started: float
) -> UNet2DConditionModel:
    """Teach the UNet to predict the noise; returns the running average of its weights.

    latents: (count, 4, 16, 16); caption: (count,), rows of `conditions`.
    """
    batch = 32
    signal = new_scheduler().alphas_cumprod
    # Min-SNR weighting (arXiv 2303.09556, gamma 5): what and where are settled at high noise, which the plain error
    # of the noise hardly weighs.
    ratio = signal / (1 - signal)
    weight = ratio.clamp(max=5.0) / ratio
    time_ids = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]], dtype=torch.float32).expand(batch, 6)
    running = None
    while learning.step < learning.steps:
        rows = torch.randint(len(latents), (batch,))
        clean = latents[rows]
        condition_row = caption[rows].clone()
        # One caption in eight is dropped, half as the empty text and half as zeros: samplers use either for guidance.
        dropped = torch.rand(batch)
        condition_row[dropped < 0.125] = len(conditions.context) - 1
        condition_row[dropped < 0.0625] = len(conditions.context) - 2
        noise = torch.randn_like(clean)
        # One timestep from each 1/batch of the schedule: the same mean as chance, with less noise in the gradient.
        timestep = (torch.arange(batch) * 1000 + torch.randint(1000, (batch,))) // batch
        amount = signal[timestep][:, None, None, None]
        noisy = amount.sqrt() * clean + (1 - amount).sqrt() * noise
        predicted = learning.unet(
            noisy.contiguous(memory_format=torch.channels_last),
            timestep,
            conditions.context[condition_row],
            added_cond_kwargs={"text_embeds": conditions.pooled[condition_row], "time_ids": time_ids},
        ).sample
        loss = (weight[timestep] * (predicted - noise).square().mean((1, 2, 3))).mean()
        learning.learn(loss)
        running = float(loss) if running is None else 0.98 * running + 0.02 * float(loss)
        if learning.step % 100 == 0:
            say(f"UNet step {learning.step}: loss {running:.4f}", started)
        if learning.step % 200 == 0:
            learning.save()
    return learning.average


def write_base(folder: Path, vae: AutoencoderKL, encoders: tuple, tokenizers: list, unet: nn.Module) -> None:
    """Write the whole pipeline in diffusers' layout, weights as float16 safetensors."""
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=encoders[0],
        text_encoder_2=encoders[1],
        tokenizer=tokenizers[0],
        tokenizer_2=tokenizers[1],
        unet=unet,
        scheduler=new_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.to(dtype=torch.float16)
    pipeline.save_pretrained(folder)


def write_provenance(folder: Path, options: dict[str, object], seconds: float) -> None:
    """Write provenance.json: how the weights came to be, and their hashes."""
    import diffusers
    import transformers

    weights = sorted(folder.rglob("*.safetensors"))
    program = (
        "python -m mapo_studio.trainer.demo.tiny_base.train_base --out trainer/demo/tiny_base/weights --work FOLDER"
    )
    chosen = [f"--{name.replace('_', '-')} {value}" for name, value in options.items() if name not in ("out", "work")]
    provenance = {
        "made_from": "pictures drawn by trainer/demo/shapes_world.py; no outside weights or data",
        "command": " ".join([program, *chosen]),
        "seed": SEED,
        "steps": {"vae": options["vae_steps"], "unet": options["unet_steps"]},
        "minutes": round(seconds / 60, 1),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
        },
        "sha256": {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in weights},
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")


def _indices(values: list[str]) -> torch.Tensor:
    names = sorted(set(values))
    return torch.tensor([names.index(value) for value in values])


def _chunks(pictures: Pictures) -> tuple[torch.Tensor, ...]:
    return torch.arange(len(pictures.caption)).split(64)


if __name__ == "__main__":
    main(sys.argv[1:])
