"""Box refiners: boxes in, masks with borders out (Eq. 2 of arXiv 2305.10724)."""

from saa_core.refiners.base import Refined, RegionRefiner
from saa_core.refiners.contour import Contour

__all__ = ["Contour", "Refined", "RegionRefiner"]
