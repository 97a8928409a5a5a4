"""Default steps and CFG scale of generating: the base's own, where a person leaves them empty. For every face.

A few-step (distilled) base generates in as many steps as it was distilled for, and without guidance, which is distilled
into it: with 28 steps and CFG 5 its images burn.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..models.base_model import BaseModel
    from ..models.few_step import FewStep

DEFAULT_STEPS = 28
DEFAULT_CFG = 5.0
_CFG_OF_FEW_STEP_BASES = 1.0


def steps_and_cfg(base: BaseModel, steps: int | None = None, cfg: float | None = None) -> tuple[int, float]:
    """Those given, and for what is None the base's own."""
    own_steps, own_cfg = _own(base.distilled)
    return steps or own_steps, cfg or own_cfg


def steps_and_cfg_at(where: str) -> tuple[int, float]:
    """The own steps and CFG of a base as it is named in a form, for showing them there.

    Reads configurations and headers alone, and downloads nothing: of a name on the hub the name has to tell. What
    cannot be read counts as an ordinary base.
    """
    from ..models.few_step import distilled_by
    from ..models.open import TINY, few_step_at

    try:
        is_here = where == TINY or (where and Path(where).expanduser().exists())
        return _own(few_step_at(where) if is_here else distilled_by([where], {}, {}))
    except (UserError, OSError):
        return _own(None)


def _own(few_step: FewStep | None) -> tuple[int, float]:
    return (few_step.steps, _CFG_OF_FEW_STEP_BASES) if few_step else (DEFAULT_STEPS, DEFAULT_CFG)
