"""The safeguard of Diffusion-SDPO: a smaller push on rejected images where it would push the chosen ones away as well.

From Safeguarded DPO (arXiv 2511.03317). Per pair, with the residuals r = prediction - target
and the errors l = mean(r^2) over the n elements of each image, the loss pulls and pushes the two predictions by

    g_w =  d loss / d l_w * d l_w / d prediction_w  =   a * 2 r_w / n        a =  d loss / d l_w, positive: pulls
    g_l = -d loss / d l_l * d l_l / d prediction_l  =   b * 2 r_l / n        b = -d loss / d l_l, positive: pushes

so a step of size s down the loss moves the predictions by -s g_w and, with the push let through in part, +s k g_l. The
two images of a pair share noise, noise level, text and weights. Where they move one shared prediction, that moves by
-s (g_w - k g_l), and the chosen image's error by

    d l_w = -(s / a) g_w . (g_w - k g_l) = -(s / a) (|g_w|^2 - k g_w . g_l)         to first order

With k = min(1, (1 - mu) |g_w|^2 / (g_w . g_l)) where g_w . g_l > 0, and 1 elsewhere, this is at most
-(s / a) mu |g_w|^2: never a rise. As |g_w|^2 = 4 a^2 l_w / n and g_w . g_l = 4 a b mean(r_w r_l) / n,

    k = min(1, (1 - mu) a l_w / (b mean(r_w r_l)))      where b mean(r_w r_l) > 0

For DPO a = b, and k is the paper's. For MaPO the likelihood term is part of a: a chosen image that is pulled harder
bears a harder push. mu in [0, 1): the share of the pull that must be left; the paper takes 0.6 for SDXL and 0.9 for
SD 1.5.
"""

from __future__ import annotations

import torch
from torch import Tensor


def safeguard_factor(grad_chosen: Tensor, grad_rejected: Tensor, chosen: Tensor, overlap: Tensor, mu: float) -> Tensor:
    """The factor k in [0, 1] of each pair's rejected gradient; all tensors (pairs,), and no device is waited for.

    grad_chosen, grad_rejected: d loss / d error, up to one factor for both. chosen: the error l_w; overlap:
    mean(r_w r_l). A pair whose chosen image is not pulled (judged against it, on the whole) has nothing to guard: 1.
    """
    pull, push = grad_chosen, -grad_rejected
    conflict = push * overlap
    guarded = (conflict > 0) & (pull > 0)
    most = (1 - mu) * pull * chosen / torch.where(guarded, conflict, 1.0)
    return torch.where(guarded, most.clamp(max=1.0), 1.0)
