"""Feature extractors: an image in, a grid of feature vectors out (Eq. 5 of arXiv 2305.10724 compares them)."""

from saa_core.features.base import FeatureExtractor, FeatureLayout
from saa_core.features.filter_bank import FilterBank

__all__ = ["FeatureExtractor", "FeatureLayout", "FilterBank"]
