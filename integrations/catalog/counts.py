"""What is in a catalog, counted by the database: for whoever watches it."""

from __future__ import annotations

from collections import Counter

from sqlalchemy import ColumnElement, func, select, true

from integrations.catalog.models import Run, RunImageRow
from integrations.catalog.records import RunRecord, RunTotals
from integrations.catalog.runs import run_record
from integrations.catalog.tables import Tables


class CountTables(Tables):
    """The part of a catalog that counts."""

    def unfinished_runs(self) -> tuple[RunRecord, ...]:
        """Runs that were begun and not finished, whether a process is at them or not, oldest first."""
        query = select(Run).where(Run.state == "running").order_by(Run.created, Run.id)
        with self._reading() as session:
            return tuple(map(run_record, session.scalars(query)))

    def every_run(self) -> tuple[RunRecord, ...]:
        """All runs of all products, finished or not, the one that was begun first in front."""
        with self._reading() as session:
            return tuple(map(run_record, session.scalars(select(Run).order_by(Run.created, Run.id))))

    def image_states(self) -> dict[tuple[str, str], int]:
        """Images of all runs, those of unfinished ones so far, by (product, what became of them)."""
        sums = [func.sum(column).label(column.key) for column in (Run.labelled, Run.reused, Run.quarantined)]
        finished = select(Run.product, *sums).where(Run.state == "done").group_by(Run.product)
        # A run that is done has its counts; rows are counted of the others only, which are few.
        going_on = select(Run.id).where(Run.state != "done")
        rows = (
            select(RunImageRow.run_id, RunImageRow.state, func.count())
            .where(RunImageRow.run_id.in_(going_on))
            .group_by(RunImageRow.run_id, RunImageRow.state)
        )
        found: Counter[tuple[str, str]] = Counter()
        with self._reading() as session:
            for row in session.execute(finished).mappings():
                found.update({(row["product"], column.key): row[column.key] for column in sums})
            unfinished = session.execute(select(Run.id, Run.product).where(Run.state != "done"))
            products = {identity: product for identity, product in unfinished}  # noqa: C416 - a result has keys() too
            for run, state, number in session.execute(rows):
                found[products[run], state] += number
        return {each: number for each, number in found.items() if number}

    def run_totals(self) -> dict[str, RunTotals]:
        """The finished runs of each product together."""
        sums = func.count(), func.sum(Run.regions), func.sum(Run.model_calls), func.sum(Run.seconds)
        query = select(Run.product, *sums, func.max(Run.created)).where(Run.state == "done").group_by(Run.product)
        with self._reading() as session:
            return {product: RunTotals(*totals) for product, *totals in session.execute(query)}

    def count_images(self, run_id: str) -> int:
        """How many images of a run something is noted of."""
        query = select(func.count()).select_from(RunImageRow).where(RunImageRow.run_id == run_id)
        with self._reading() as session:
            return session.scalar(query) or 0

    def count_usable(self, product: str, bundle: str | None = None) -> int:
        """How many images the finished runs of a product decided, of one bundle or of any, each counted once."""
        query = (
            select(func.count(RunImageRow.image_key.distinct()))
            .join(Run, Run.id == RunImageRow.run_id)
            .where(Run.product == product, Run.state == "done", RunImageRow.state != "quarantined", _by(bundle))
        )
        with self._reading() as session:
            return session.scalar(query) or 0


def _by(bundle: str | None) -> ColumnElement[bool]:
    return true() if bundle is None else Run.bundle_id == bundle
