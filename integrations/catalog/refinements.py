"""What refinements proposed, which lots no search sees, and every look at those."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from integrations.catalog.models import HoldoutRow, LookRow, RefinementRow
from integrations.catalog.records import LookRecord, RefinementRecord, now
from integrations.catalog.tables import Row, Tables, insert
from saa_core.refinement.outcome import Outcome


class RefinementTables(Tables):
    """The part of a catalog that holds refinements, the hold-out and its ledger; rows are only ever added."""

    def record_refinement(self, record: RefinementRecord) -> None:
        """Note where a bundle comes from; a bundle that is known with the same evidence stays as it was noted.

        Raises:
            StoreError: The bundle is not in the catalog.
        """
        with self._writing() as session:
            insert(session, RefinementRow, [refinement_row(record)])

    def refinements(self, product: str) -> tuple[RefinementRecord, ...]:
        """All refinements of a product that proposed a bundle, oldest first."""
        query = select(RefinementRow).where(RefinementRow.product == product)
        with self._reading() as session:
            found = session.scalars(query.order_by(RefinementRow.created, RefinementRow.bundle))
            return tuple(map(_refinement, found))

    def refinement(self, bundle_id: str) -> RefinementRecord | None:
        """Where a bundle comes from, by its whole id; the latest if several refinements found it, None if none did."""
        query = select(RefinementRow).where(RefinementRow.bundle == bundle_id)
        with self._reading() as session:
            row = session.scalar(query.order_by(RefinementRow.created.desc(), RefinementRow.evidence).limit(1))
            return _refinement(row) if row else None

    def holdout(self, product: str) -> dict[str, bool]:
        """Which of a product's lots are held out, of those that were assigned."""
        with self._reading() as session:
            return _holdout(session, product)

    def assign_holdout(self, product: str, lots: Mapping[str, bool]) -> dict[str, bool]:
        """Hold lots out, or not, for ever; one that was assigned before stays what it is.

        Returns:
            What holds now, of all the product's lots.
        """
        rows = [{"product": product, "lot": lot, "held": lots[lot], "since": now()} for lot in sorted(lots)]
        with self._writing() as session:
            insert(session, HoldoutRow, rows)
            return _holdout(session, product)

    def look(self, product: str, evidence: str, champion: str, bundle: str, gain: float | None) -> int:
        """Note a look at the held-out images; arguments as in `LookRecord`.

        Returns:
            How many looks the product has had, this one included.
        """
        row = LookRow(product=product, evidence=evidence, champion=champion, bundle=bundle, gain=gain, at=now())
        with self._writing() as session:
            session.add(row)
            session.flush()
            return session.scalar(select(func.count()).where(LookRow.product == product)) or 0

    def looks(self, product: str) -> tuple[LookRecord, ...]:
        """Every look at a product's held-out images, oldest first."""
        query = select(LookRow).where(LookRow.product == product).order_by(LookRow.number)
        with self._reading() as session:
            return tuple(map(_look, session.scalars(query)))


def _holdout(session: Session, product: str) -> dict[str, bool]:
    query = select(HoldoutRow.lot, HoldoutRow.held).where(HoldoutRow.product == product)
    return dict(sorted((lot, held) for lot, held in session.execute(query)))


def _refinement(row: RefinementRow) -> RefinementRecord:
    return RefinementRecord(
        bundle=row.bundle,
        product=row.product,
        champion=row.champion,
        evidence=row.evidence,
        outcome=cast(Outcome, row.outcome),
        seed=row.seed,
        content=row.content,
        created=row.created,
    )


def _look(row: LookRow) -> LookRecord:
    return LookRecord(row.number, row.product, row.evidence, row.champion, row.bundle, row.gain, row.at)


def refinement_row(record: RefinementRecord) -> Row:
    """The row of a record."""
    return {**asdict(record), "content": dict(record.content)}
