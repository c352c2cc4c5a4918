"""P^L on dense maps: how the evidence of phrases joins the saliency of pixels.

Evidence says how strongly a pixel looks like a phrase, whatever the image is like: a screw is full of lines, so lines
there say little. What counts is therefore the excess over the level that calm images of the set reach:

    x_p   = clip((e_p / c_p - 1) / X, 0, 1)           X = 3: four times the calm level is full evidence
    x     = min(1, sum_p w_p x_p / n)                 over the n phrases that say something and have a weight
    A     = 1 - (1 - s) (1 - x min(1, a + b s))^2     a = 1/4, b = 3: without saliency, evidence counts a quarter

This is the noisy-or of saliency and of evidence, which counts as two witnesses, since the mean over several phrases is
small where one of them is right. The constants were chosen on the development products, one set for all; the figures
change little about them. Phrases without evidence ("anomaly") leave A = s. Ours, not the paper's: there, phrases reach
the map through boxes alone (Eq. 1, 7 and 9).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from saa_core.maps import resize
from saa_core.types import FloatMap

PEAK = 0.99
"""Level of an image's evidence that stands for its strongest: the quantile over its pixels."""
CALM = 0.25
"""Calm images of a set: this quantile over the images, since the others may show the defect."""
EXCESS = 3.0
GATE = 0.25
GATE_SLOPE = 3.0
WITNESSES = 2
_TINY = 1e-3


def peaks(evidence: NDArray[np.floating]) -> NDArray[np.float32]:
    """Strongest evidence of each phrase in one image; a set keeps these P numbers per image, no maps.

    Args:
        evidence: (P, h, w) in [0, 1].

    Returns:
        float32 (P,): `PEAK` quantiles over the pixels.
    """
    levels = [np.quantile(row.astype(np.float32), PEAK) for row in evidence]
    return np.array(levels, np.float32)


def calm_levels(of_images: NDArray[np.floating]) -> NDArray[np.float32]:
    """The evidence c that calm images of a set reach.

    Args:
        of_images: (n, P), `peaks` of n >= 1 images.

    Returns:
        float32 (P,): `CALM` quantiles over the images.
    """
    return np.asarray(np.quantile(of_images, CALM, axis=0), np.float32)


def fuse(
    saliency: FloatMap,
    evidence: NDArray[np.floating],
    weights: NDArray[np.floating],
    calm: NDArray[np.floating] | None = None,
) -> FloatMap:
    """The dense anomaly map A of saliency and phrases, by the equations above.

    Args:
        saliency: s, float32 (h, w) in [0, 1].
        evidence: e, (P, h', w') in [0, 1], of the same field of view; a row of zeros says nothing.
        weights: w, (P,), at least 0.
        calm: c, (P,): `calm_levels` of the image's set; None takes the image's own `peaks`.

    Returns:
        float32 (h, w) in [0, 1]; `saliency` itself, if no phrase says anything.
    """
    says = (weights > 0) & evidence.any(axis=(1, 2))
    if not says.any():
        return saliency
    chosen = evidence[says].astype(np.float32)
    level = peaks(chosen) if calm is None else calm[says].astype(np.float32)
    excess = np.clip((chosen / np.maximum(level, _TINY)[:, None, None] - 1) / EXCESS, 0, 1)
    joint = np.asarray(np.tensordot(weights[says], excess, axes=1) / says.sum(), np.float32)
    height, width = saliency.shape
    gated = np.minimum(resize(joint, (height, width)), 1) * np.minimum(GATE + GATE_SLOPE * saliency, 1)
    return np.asarray(1 - (1 - saliency) * (1 - gated) ** WITNESSES, np.float32)
