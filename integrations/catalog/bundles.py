"""Prompt bundles and their stations."""

from __future__ import annotations

from typing import cast

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from integrations.catalog.models import Bundle
from integrations.catalog.promotions import rolled_back_to
from integrations.catalog.records import BundleRecord, BundleState, now
from integrations.catalog.tables import Tables, by_prefix, insert
from saa_core.errors import BundleError
from saa_core.prompts import PromptBundle


class BundleTables(Tables):
    """The part of a catalog that holds bundles."""

    def add_bundle(self, bundle: PromptBundle, state: BundleState = "proposed") -> BundleRecord:
        """Note a bundle. One that is known keeps its state.

        Returns:
            What the catalog holds.

        Raises:
            BundleError: It would be a second champion of its product.
        """
        row = {
            "id": bundle.id,
            "product": bundle.product,
            "parent": bundle.parent,
            "state": state,
            "created": now(),
            "content": bundle.model_dump(mode="json"),
        }
        with self._writing() as session:
            try:
                insert(session, Bundle, [row])
            except IntegrityError:
                raise BundleError(bundle.id, f"{bundle.product!r} has a champion already") from None
            return _bundle_record(session.get_one(Bundle, bundle.id))

    def bundle(self, id_or_prefix: str) -> PromptBundle:
        """A bundle by its id or the beginning of it.

        Raises:
            BundleError: No bundle's id begins like this, or several do.
        """
        with self._reading() as session:
            return _bundle_record(by_prefix(session, Bundle, id_or_prefix, "bundle", BundleError)).bundle

    def bundles(self, product: str | None = None) -> tuple[BundleRecord, ...]:
        """All bundles, of one product or of all, oldest first."""
        query = select(Bundle).order_by(Bundle.created, Bundle.id)
        with self._reading() as session:
            found = session.scalars(query if product is None else query.where(Bundle.product == product))
            return tuple(_bundle_record(bundle) for bundle in found)

    def champion(self, product: str) -> PromptBundle | None:
        """The bundle that decides for a product; None before the first promotion."""
        query = select(Bundle).where(Bundle.product == product, Bundle.state == "champion")
        with self._reading() as session:
            bundle = session.scalar(query)
            if bundle is None and (before := rolled_back_to(session, product)) is not None:
                bundle = session.get_one(Bundle, before)
            return _bundle_record(bundle).bundle if bundle else None


def _bundle_record(row: Bundle) -> BundleRecord:
    bundle = PromptBundle.from_content(row.content, row.id)
    if bundle.id != row.id:
        raise BundleError(
            row.id, f"its stored content has another id, {bundle.id}: damaged, or made by another version"
        )
    return BundleRecord(bundle, cast(BundleState, row.state), row.created)
