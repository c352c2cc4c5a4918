"""The catalog itself: a narrow set of questions and answers over the tables."""

from __future__ import annotations

from integrations.catalog.bundles import BundleTables
from integrations.catalog.counts import CountTables
from integrations.catalog.promotions import PromotionTables
from integrations.catalog.refinements import RefinementTables
from integrations.catalog.reviews import ReviewTables
from integrations.catalog.runs import RunTables


class Catalog(RunTables, BundleTables, PromotionTables, RefinementTables, ReviewTables, CountTables):
    """Images, runs, bundles, refinements and reviews of a workspace; arguments and errors as for `Tables`."""
