"""Encoding: judged pairs become cached latents and text, with one model at a time on the card.

In phases: look what the cache holds already; load the text encoders, use them, drop them; load the VAE, use it, drop
it. A phase with nothing to do loads nothing, so a second run over the same pairs only looks.

A latent's key is (content of the picture file, bucket size, how pictures are fitted, mirrored or not, identity of the
VAE, storage dtype); a prompt's is (the prompt, identity of the text encoders, dtype). Nothing else decides what an
entry holds, so a cache never goes stale: another crop, size or VAE looks elsewhere.

What is kept of a picture is the mean and the standard deviation of the VAE's posterior, so that every training step
draws a fresh latent, both already times the VAE's scaling_factor, so that only this file needs to know the VAE; in
float16: scaled latents are a few units large, where float16 rounds by at most 0.002, an eighth of what the bfloat16
arithmetic of training rounds them by, and it halves the disk space (256 KB a picture at 1024 px).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..device import capabilities, release_memory
from ..distributed import SINGLE, World
from ..errors import DeviceOutOfMemory, UserError
from ..images.aspect_buckets import Size, bucket_for, buckets
from ..images.crop import CROP_VERSION, CoverCrop, SizeConditioning
from ..images.decode import open_image
from ..images.image_ref import ImageRef
from ..models.base_model import BaseModel
from ..preferences.pairs import Pair
from . import tensor_cache as entries

STORED = torch.float16
PROMPTS_PER_BATCH = 8
_CHECKED_PER_REPORT = 100
PIXELS_PER_BATCH = 1024 * 1024
PIXELS_PER_BATCH_ON_A_CPU = 256 * 256
"""More at once is slower there: activations leave the processor's cache, and every layer asks for new memory."""
# One 1024 px picture already keeps a consumer card busy, and a larger batch would only ask for more memory: on Windows
# the driver would hand out slow shared memory before torch ever saw an error.
MAX_IMAGES_PER_BATCH = 16


@dataclass(frozen=True)
class EncodedPair:
    """One pair, ready to be drawn into a batch: every Path is a cache entry for `load_latent` or `load_text`.

    bucket: (width, height) in pixels of both pictures; framing: the chosen picture's, for both (and for their mirror
    images: the crop is centred). The flipped paths are None unless `encode` was asked for them. rejected_text: of the
    rejected picture's own caption; None where it has none.
    """

    pair: Pair
    bucket: Size
    framing: SizeConditioning
    text: Path
    chosen: Path
    rejected: Path
    chosen_flipped: Path | None = None
    rejected_flipped: Path | None = None
    rejected_text: Path | None = None


@dataclass(frozen=True)
class EncodedPairs:
    """What `encode` leaves behind: no tensor, only where each one lies."""

    pairs: tuple[EncodedPair, ...]
    texts: Mapping[str, Path]
    """Prompt -> cache entry: every pair's prompt, the extra prompts, and always the empty prompt."""
    upscaled: tuple[str, ...] = ()
    """Labels of pictures smaller than their bucket: they train, but blurred."""
    reused: int = 0
    made: int = 0

    def text(self, prompt: str) -> Path:
        """The cache entry of a prompt that `encode` was given. Raises KeyError for any other."""
        return self.texts[prompt]


@dataclass(frozen=True)
class EncodeProgress:
    """phase: "check" (what is cached already), "text" or "latents"; done and total count entries of that phase.

    reused: entries of the whole encode that were found sound in the cache so far.
    """

    phase: str
    done: int
    total: int
    reused: int


@dataclass(frozen=True)
class EncodeJob:
    """One picture at one size, and the cache entries to make of it: (mirrored, path)."""

    image: ImageRef
    crop: CoverCrop
    entries: tuple[tuple[bool, Path], ...]

    @classmethod
    def fit(cls, image: ImageRef, bucket: Size, cache: Path, vae_identity: str, flip: bool) -> EncodeJob:
        """Of `image` in `bucket`; flip: its mirror image too."""
        key = (image.sha256, bucket, CROP_VERSION)
        return cls(
            image,
            CoverCrop.fit(image.size, bucket),
            tuple(
                (mirrored, entries.entry(cache, "latents", *key, mirrored, vae_identity, STORED))
                for mirrored in ((False, True) if flip else (False,))
            ),
        )

    def only(self, missing: set[Path]) -> EncodeJob:
        """The part of the job whose entries are `missing`."""
        return EncodeJob(self.image, self.crop, tuple(entry for entry in self.entries if entry[1] in missing))

    def decode(self) -> list[_Pixels]:
        """The pixels of each entry. Raises UserError naming a picture that cannot be read."""
        fitted = np.asarray(self.crop.apply(open_image(self.image)))
        return [
            _Pixels(self.image.label, path, np.ascontiguousarray(fitted[:, ::-1]) if mirrored else fitted)
            for mirrored, path in self.entries
        ]


@dataclass(frozen=True)
class EncodingPlan:
    """What is to be encoded: the cache entry of everything, and the share of it that this process looks after."""

    pairs: tuple[EncodedPair, ...]
    texts: Mapping[str, Path]
    upscaled: tuple[str, ...]
    own_texts: Mapping[str, Path]
    own_jobs: Sequence[EncodeJob]
    text_dtype: torch.dtype


def encode(
    base: BaseModel,
    pairs: Sequence[Pair],
    prompts: Sequence[str],
    cache: Path,
    device: torch.device,
    *,
    resolution: int,
    flip: bool = False,
    workers: int = 2,
    progress: Callable[[EncodeProgress], None] = lambda _: None,
    world: World = SINGLE,
) -> EncodedPairs:
    """Encode what the cache lacks: prompts first, then pictures, and load no model that nothing needs.

    Each of several processes looks after its share of the entries, and returns when all of them are there.

    prompts: further prompts, for samples. resolution: side in px of the square whose area every bucket keeps within.
    flip: mirrored pictures too. workers: threads that decode pictures while the device encodes; the result is the same
    for any number. progress may raise to stop: what is encoded by then stays in the cache.
    Raises UserError naming the picture that cannot be read or encoded, and the folder if the disk is full.
    """
    device = torch.device(device)
    plan = plan_encoding(base, pairs, prompts, cache, device, resolution=resolution, flip=flip, world=world)
    with world.synchronized():
        entries.remove_stale(cache)
        reused, made = _run_plan(plan, base, device, workers, progress)
    counts = world.all_gather([(reused, made)])
    return EncodedPairs(plan.pairs, plan.texts, plan.upscaled, *map(sum, zip(*counts, strict=True)))


def plan_encoding(
    base: BaseModel,
    pairs: Sequence[Pair],
    prompts: Sequence[str],
    cache: Path,
    device: torch.device,
    *,
    resolution: int,
    flip: bool,
    world: World = SINGLE,
) -> EncodingPlan:
    """The cache entries of all that `encode` is to make, by their keys alone: no picture is read, no model loaded."""
    text_identity, vae_identity = base.identity("text"), base.identity("vae")
    text_dtype = capabilities(device).text
    texts = {
        prompt: entries.entry(cache, "text", prompt, text_identity, text_dtype)
        for prompt in dict.fromkeys(["", *prompts, *(pair.prompt for pair in pairs), *_own_captions(pairs)])
    }
    sizes = buckets(resolution, base.latent_factor)
    jobs: dict[tuple[str, Size], EncodeJob] = {}  # an image of several pairs is encoded once a size
    upscaled: dict[str, None] = {}
    encoded: list[EncodedPair] = []
    for pair in pairs:
        bucket = bucket_for(*pair.chosen.size, sizes)
        chosen, rejected = (
            EncodeJob.fit(image, bucket, cache, vae_identity, flip) for image in (pair.chosen, pair.rejected)
        )
        for job in (chosen, rejected):
            jobs.setdefault((job.image.sha256, bucket), job)
            if job.crop.upscaled:
                upscaled[job.image.label] = None
        encoded.append(_encoded_pair(pair, chosen, rejected, texts))
    own_texts, own_jobs = dict(world.shard(list(texts.items()))), world.shard(list(jobs.values()))
    return EncodingPlan(tuple(encoded), texts, tuple(upscaled), own_texts, own_jobs, text_dtype)


def _encoded_pair(pair: Pair, chosen: EncodeJob, rejected: EncodeJob, texts: Mapping[str, Path]) -> EncodedPair:
    chosen_paths, rejected_paths = dict(chosen.entries), dict(rejected.entries)
    return EncodedPair(
        pair,
        chosen.crop.target,
        chosen.crop.size_conditioning,
        texts[pair.prompt],
        chosen_paths[False],
        rejected_paths[False],
        chosen_paths.get(True),
        rejected_paths.get(True),
        None if pair.rejected_prompt is None else texts[pair.rejected_prompt],
    )


def _run_plan(
    plan: EncodingPlan,
    base: BaseModel,
    device: torch.device,
    workers: int,
    progress: Callable[[EncodeProgress], None],
) -> tuple[int, int]:
    """Make the entries of this process's share that the cache lacks: how many were there, and how many were made."""
    paths = [*plan.own_texts.values(), *(path for job in plan.own_jobs for _, path in job.entries)]
    missing = _missing(paths, workers, progress)
    reused = len(paths) - len(missing)
    new_texts = {prompt: path for prompt, path in plan.own_texts.items() if path in missing}
    if new_texts:
        report = partial(_report, progress, "text", reused)
        _encode_texts(base, new_texts, device, plan.text_dtype, report)
        release_memory(device)
    new_jobs = [job for job in (job.only(missing) for job in plan.own_jobs) if job.entries]
    if new_jobs:
        _encode_images(base, new_jobs, device, workers, partial(_report, progress, "latents", reused))
        release_memory(device)
    return reused, len(missing)


def _report(progress: Callable[[EncodeProgress], None], phase: str, reused: int, done: int, total: int) -> None:
    progress(EncodeProgress(phase, done, total, reused))


def load_latent(path: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a picture's latent, each (c, h, w) float32 on the CPU, times scaling_factor.

    A fresh latent is `mean + std * torch.randn_like(std)`, ready for the UNet. Raises UserError on a damaged entry.
    """
    tensors = entries.read(path)
    return tensors["mean"].float(), tensors["std"].float()


def load_text(path: Path) -> dict[str, Tensor]:
    """A prompt's text tensors by name, no batch axis, on the CPU, in the dtype they were encoded in.

    Raises UserError on a damaged entry.
    """
    return entries.read(path)


@dataclass(frozen=True)
class _Pixels:
    """rgb: (height, width, 3) uint8."""

    label: str
    path: Path
    rgb: np.ndarray


def _own_captions(pairs: Sequence[Pair]) -> Iterator[str]:
    return (pair.rejected_prompt for pair in pairs if pair.rejected_prompt is not None)


def _missing(paths: Sequence[Path], workers: int, progress: Callable[[EncodeProgress], None]) -> set[Path]:
    missing: set[Path] = set()
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, (path, sound) in enumerate(zip(paths, pool.map(entries.is_valid, paths), strict=True), start=1):
            if not sound:
                missing.add(path)
            if done % _CHECKED_PER_REPORT == 0 or done == len(paths):
                progress(EncodeProgress("check", done, len(paths), done - len(missing)))
    return missing


def _encode_texts(
    base: BaseModel,
    texts: Mapping[str, Path],
    device: torch.device,
    dtype: torch.dtype,
    report: Callable[[int, int], None],
) -> None:
    encoder = base.load_text(device, dtype)
    prompts = list(texts)
    for start in range(0, len(prompts), PROMPTS_PER_BATCH):
        batch = prompts[start : start + PROMPTS_PER_BATCH]
        with torch.inference_mode():
            outputs = encoder(batch)
        for prompt, tensors in zip(batch, outputs, strict=True):
            if not all(tensor.isfinite().all() for tensor in tensors.values()):
                raise UserError(f"the text encoders of {base.path} give no finite answer for the prompt {prompt!r}")
            entries.write(texts[prompt], {name: tensor.cpu() for name, tensor in tensors.items()})
        report(start + len(batch), len(prompts))


def _encode_images(
    base: BaseModel, jobs: Sequence[EncodeJob], device: torch.device, workers: int, report: Callable[[int, int], None]
) -> None:
    vae = base.load_vae(device)
    done, total = 0, sum(len(job.entries) for job in jobs)
    for batch in _batches(_decoded(jobs, workers), device):
        pixels = torch.from_numpy(np.stack([one.rgb for one in batch])).permute(0, 3, 1, 2)
        # On a CPU channels_last (NHWC, the order of the decoded bytes) is faster: docs/benchmarks.md.
        pixels = pixels if device.type == "cpu" else pixels.contiguous()
        means, stds = encode_with_oom_backoff(vae, pixels, device, batch)
        for one, mean, std in zip(batch, means, stds, strict=True):
            if not (mean.isfinite().all() and std.isfinite().all()):
                raise UserError(
                    f"the VAE of {base.path} gives no finite latent for {one.label}; "
                    "leave that pair out, or use a VAE that is sound in half precision"
                )
            entries.write(one.path, {"mean": mean, "std": std})
        done += len(batch)
        report(done, total)


def _decoded(jobs: Sequence[EncodeJob], workers: int) -> Iterator[_Pixels]:
    """Pictures in the order of `jobs`, decoded ahead by threads: never more than a few at once, however many."""
    workers = max(1, workers)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[Future[list[_Pixels]]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(job.decode))
            if len(waiting) > 2 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def images_per_batch(width: int, height: int, device: torch.device) -> int:
    """How many images of this size the VAE encodes at once."""
    pixels = PIXELS_PER_BATCH_ON_A_CPU if device.type == "cpu" else PIXELS_PER_BATCH
    return min(MAX_IMAGES_PER_BATCH, max(1, pixels // (width * height)))


def _batches(pixels: Iterator[_Pixels], device: torch.device) -> Iterator[list[_Pixels]]:
    """Batches of images of one size each.

    What waits for its batch to fill is at most one batch a bucket.
    """
    filling: dict[tuple[int, ...], list[_Pixels]] = {}
    for one in pixels:
        size = one.rgb.shape
        batch = filling.setdefault(size, [])
        batch.append(one)
        if len(batch) >= images_per_batch(size[1], size[0], device):
            yield filling.pop(size)
    yield from filling.values()


def encode_with_oom_backoff(
    vae: nn.Module, rgb: Tensor, device: torch.device, batch: Sequence[_Pixels]
) -> tuple[Tensor, Tensor]:
    """Scaled means and standard deviations, (n, c, h, w) in the storage dtype on the CPU, of uint8 rgb (n, 3, H, W).

    Out of memory halves the batch; a single picture that does not fit raises DeviceOutOfMemory naming it.
    """
    try:
        with torch.inference_mode():
            pixels = rgb.to(device).to(vae.dtype) / 127.5 - 1
            posterior = vae.encode(pixels).latent_dist
            scale = vae.config.scaling_factor
            return tuple((part.float() * scale).to(STORED).cpu() for part in (posterior.mean, posterior.std))
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            size = f"{rgb.shape[3]} x {rgb.shape[2]} px"
            raise DeviceOutOfMemory(
                f"not enough memory on {device} to encode {batch[0].label} at {size}; "
                "close what else uses the card, or choose a smaller resolution"
            ) from None
    # Outside the handler: while the error lives, so does everything that filled the memory.
    release_memory(device)
    half = len(batch) // 2
    parts = [
        encode_with_oom_backoff(vae, rgb[:half], device, batch[:half]),
        encode_with_oom_backoff(vae, rgb[half:], device, batch[half:]),
    ]
    return torch.cat([parts[0][0], parts[1][0]]), torch.cat([parts[0][1], parts[1][1]])
