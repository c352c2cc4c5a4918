"""What a search may try: values for each number, found where the evidence has its break points."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from saa_core.prompts import PromptBundle
from saa_core.refinement.evidence import LEVELS, ImageEvidence
from saa_core.refinement.knobs import DIGITS, Knobs

Floats = NDArray[np.float64]

_POINTS = 24
"""Most break points of a number that are tried; more are thinned out evenly."""
_TOP_K = (1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
_SUPPRESSION = (0.2, 0.35, 0.5, 0.65, 0.8, 1.0)
_GAIN = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)
_GAIN_MOST = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class Menu:
    """What may be tried.

    Attributes:
        sweeps: For each number, its values.
        agnostic: Rows of the class-agnostic phrases.
        specific: Rows of the class-specific phrases.
        correlation: float64 (P, P) in [-1, 1], of the phrases' scores over all candidates.
        coupled: Settings of the numbers that depend on one another.
    """

    sweeps: Mapping[str, tuple[float, ...]]
    agnostic: tuple[int, ...]
    specific: tuple[int, ...]
    correlation: Floats
    coupled: tuple[Mapping[str, float], ...]

    @classmethod
    def of(
        cls,
        bundle: PromptBundle,
        images: Sequence[ImageEvidence],
        neighbours: Sequence[int],
        seed: int,
        trials: int,
    ) -> Menu:
        """The menu of a bundle.

        Args:
            bundle: The champion.
            images: The evidence that is searched.
            neighbours: What N of Eq. 5 may be.
            seed: Of the coupled settings.
            trials: How many of them.
        """
        general = {phrase.text for phrase in bundle.language.agnostic}
        general -= {phrase.text for phrase in bundle.language.specific}
        kinds = [phrase.text in general for phrase in bundle.phrases]
        return cls(
            sweeps=_sweeps(bundle, images, neighbours),
            agnostic=tuple(row for row, general_one in enumerate(kinds) if general_one),
            specific=tuple(row for row, general_one in enumerate(kinds) if not general_one),
            correlation=_correlation(images, len(kinds)),
            coupled=_coupled(neighbours, seed, trials),
        )


def _sweeps(
    bundle: PromptBundle, images: Sequence[ImageEvidence], neighbours: Sequence[int]
) -> dict[str, tuple[float, ...]]:
    own = Knobs.of(bundle)
    rows = [image.rows for image in images]
    view = list(neighbours).index(own.neighbours)
    best = [_heard(each.scores, own.weights) for each in rows]
    raised = [scores * np.exp(own.gain * each.saliency[view]) for scores, each in zip(best, rows, strict=True)]
    shares = [each.areas / each.object_pixels for each in rows]
    return {
        "threshold": tuple(LEVELS[1::4].tolist()) if bundle.confidence.map == "dense" else _cuts(raised, own.threshold),
        "region_floor": _points([score / (1 + score) for score in raised]),
        "score_floor": _points(best),
        "area_max": (*_points(shares)[1:], math.inf),  # 0 would leave nothing, and is no limit that a bundle has
        "area_min": _points(shares),
        "top_k": _TOP_K,
        "suppression": _SUPPRESSION,
        "gain": _GAIN,
        **({"neighbours": tuple(neighbours)} if len(neighbours) > 1 else {}),
    }


def _heard(scores: NDArray[np.float32], weights: Sequence[float]) -> Floats:
    """Eq. 7 without saliency, (n,); phrases that are silent so far, as if they spoke."""
    speaking = np.array([weight or 1.0 for weight in weights])
    best = (scores.astype(np.float64) * speaking).max(axis=1, initial=0)
    return np.asarray(np.minimum(best, 1), np.float64)


def _cuts(raised: Iterable[Floats], own: float) -> tuple[float, ...]:
    """Thresholds of Eq. 9, whose values are means of scores: at most 1, and above 0, which would mark whole images."""
    return tuple(sorted({own, *(value for value in _points(raised) if 0 < value <= 1)}))


def _points(values: Iterable[Floats]) -> tuple[float, ...]:
    """0, and the middles between neighbouring values; between no two of them does a threshold change anything."""
    distinct = np.unique(np.concatenate([*values, np.zeros(1)]))
    middles = np.unique(np.round((distinct[1:] + distinct[:-1]) / 2, DIGITS))
    if middles.size > _POINTS:
        middles = middles[np.linspace(0, middles.size - 1, _POINTS).round().astype(np.intp)]
    return (0.0, *(float(middle) for middle in middles if 0 < middle < 1))


def _correlation(images: Sequence[ImageEvidence], phrases: int) -> Floats:
    scores = np.concatenate([np.zeros((0, phrases)), *(image.rows.scores for image in images)])
    varied = scores.std(axis=0) > 0 if len(scores) else np.zeros(phrases, bool)
    found = np.eye(phrases)
    if varied.sum() > 1:
        found[np.ix_(varied, varied)] = np.corrcoef(scores[:, varied].T).round(DIGITS)
    return found


def _coupled(neighbours: Sequence[int], seed: int, trials: int) -> tuple[Mapping[str, float], ...]:
    """Settings spread evenly (Sobol), not adaptively: so a search on a resample can take exactly the same steps."""
    import optuna  # half a second

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(
            qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False
        )
    study = optuna.create_study(sampler=sampler)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "gain": optuna.distributions.FloatDistribution(0, _GAIN_MOST),
        "top_k": optuna.distributions.IntDistribution(0, len(_TOP_K) - 1),
        "suppression": optuna.distributions.FloatDistribution(0.1, 1.0),
        "region_floor": optuna.distributions.FloatDistribution(0.0, 0.8),
        "neighbours": optuna.distributions.IntDistribution(0, len(neighbours) - 1),
    }
    found = []
    for _ in range(trials):
        trial = study.ask(space)
        study.tell(trial, 0.0)
        given = trial.params
        found.append(
            {
                "gain": round(given["gain"], DIGITS),
                "top_k": _TOP_K[given["top_k"]],
                "suppression": round(given["suppression"], DIGITS),
                "region_floor": round(given["region_floor"], DIGITS),
                "neighbours": neighbours[given["neighbours"]],
            }
        )
    return tuple(found)
