"""Few-step (distilled) bases: whether one is, in how many steps it samples, and at which noise levels.

Such a model (Turbo, Lightning, Hyper, LCM, DMD) has learned to answer at a few timesteps only. Tuned at all of them by
the plain loss it forgets how to paint in few steps, and its pictures blur. So it is trained at the timesteps that its
sampler asks for: those of the "trailing" spacing (Lin et al., arXiv 2305.08891), 999, 749, 499 and 249 for four steps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_STEPS = {"Turbo": 4, "Lightning": 4, "Hyper": 8, "LCM": 4, "DMD": 4}
"""As they are used where their names do not say."""
_NAMES = (
    ("Turbo", re.compile(r"turbo", re.IGNORECASE)),
    ("Lightning", re.compile(r"lightning", re.IGNORECASE)),
    # "Hyper" alone begins half of all names of realistic models.
    ("Hyper", re.compile(r"hyper[ _-]?sd|hyper[ _-]?\d+[ _-]?steps?", re.IGNORECASE)),
    # As words of their own, or capitals after a small letter: "calcmodel" is none.
    ("DMD", re.compile(r"(?<![A-Za-z])(?i:dmd)2?(?![a-z])|(?<=[a-z])DMD")),
    ("LCM", re.compile(r"(?<![A-Za-z])(?i:lcm)(?![a-z])|(?<=[a-z])LCM|(?i:latent[ _-]?consistency)")),
)
_COUNT = re.compile(r"(?<!\d)([1248])[ _-]?steps?(?![a-z])", re.IGNORECASE)
_SCHEDULERS = {"LCMScheduler": "LCM", "TCDScheduler": "Hyper"}
_NOISY = ("LCM", "DMD")
"""Sampled by painting to the end and adding noise again, as consistency models are (Luo et al., arXiv 2310.04378)."""


@dataclass(frozen=True)
class FewStep:
    """kind: "Turbo", "Lightning", "Hyper", "LCM" or "DMD"; "" for a base that was only said to be used in few steps.

    steps: in which it paints; evidence: what says so, as part of a sentence. Its guidance is 1.
    """

    kind: str
    steps: int
    evidence: str

    @property
    def consistency_sampled(self) -> bool:
        """Whether its sampler is the one of consistency models."""
        return self.kind in _NOISY

    def timesteps(self, total: int) -> tuple[int, ...]:
        """Those that it is asked at, of `total`; the highest first."""
        if self.kind == "DMD" and self.steps == 1:
            return (round(0.4 * total) - 1,)  # the one-step model begins there (arXiv 2405.14867, its model card)
        return tuple(round(total - place * total / self.steps) - 1 for place in range(self.steps))

    @property
    def warning(self) -> str:
        return (
            f"this base looks like a {self.kind} model by {self.evidence}: one that was distilled to paint in few "
            f"steps, here {self.steps}. It is trained, measured and sampled at the noise levels that it uses then: "
            "training at all of them would blur what it paints. If it is none, say --timesteps all; for another "
            "number of steps, say --timesteps with that number"
        )


def distilled_by(names: Iterable[str], scheduler: Mapping[str, Any], unet: Mapping[str, Any]) -> FewStep | None:
    """What a base is, by its names (file, folder, hub, titles in its metadata) and diffusers configurations.

    None where nothing says that it was distilled.
    """
    titles = [name for name in names if name]
    steps = next((int(match[1]) for name in titles if (match := _COUNT.search(name))), None)

    def few_step(kind: str, evidence: str) -> FewStep:
        return FewStep(kind, steps or _STEPS[kind], evidence)

    for name in titles:
        for kind, pattern in _NAMES:
            if pattern.search(name):
                return few_step(kind, f"its name ({name})")
    if unet.get("time_cond_proj_dim"):
        return few_step("LCM", "its UNet, which is told the guidance (time_cond_proj_dim)")
    sampler = str(scheduler.get("_class_name", ""))
    if sampler in _SCHEDULERS:
        return few_step(_SCHEDULERS[sampler], f"its scheduler ({sampler})")
    # Zero-terminal-SNR bases are sampled with trailing timesteps too, but never with this sampler by default.
    trailing = scheduler.get("timestep_spacing") == "trailing" and not scheduler.get("rescale_betas_zero_snr")
    if sampler == "EulerAncestralDiscreteScheduler" and trailing:
        return few_step("Turbo", "its scheduler (Euler ancestral with trailing timesteps)")
    return None


def with_step_count(detected: FewStep | None, timesteps: str) -> FewStep | None:
    """What a person says goes over what was `detected`. timesteps: as in config.TrainingConfig."""
    if timesteps in ("auto", "all"):
        return detected
    return FewStep(detected.kind if detected else "", int(timesteps), f"--timesteps {timesteps}")


def trained_timesteps(detected: FewStep | None, timesteps: str, total: int) -> Sequence[int]:
    """The timesteps that a base is trained and measured at, of `total`; the other arguments as of `with_step_count`."""
    few = None if timesteps == "all" else with_step_count(detected, timesteps)
    return few.timesteps(total) if few else range(total)
