"""Region generators: an image and phrases in, boxes with a score per phrase out (Eq. 1 of arXiv 2305.10724)."""

from saa_core.generators.base import Proposals, RegionGenerator, Request, merge
from saa_core.generators.lexical import Lexical

__all__ = ["Lexical", "Proposals", "RegionGenerator", "Request", "merge"]
