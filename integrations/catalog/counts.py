"""What is in a catalog, counted by the database: for whoever watches it."""

from __future__ import annotations

from sqlalchemy import func, select

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
        query = (
            select(Run.product, RunImageRow.state, func.count())
            .join(Run, Run.id == RunImageRow.run_id)
            .group_by(Run.product, RunImageRow.state)
        )
        with self._reading() as session:
            return {(product, state): number for product, state, number in session.execute(query)}

    def run_totals(self) -> dict[str, RunTotals]:
        """The finished runs of each product together."""
        sums = func.count(), func.sum(Run.regions), func.sum(Run.model_calls), func.sum(Run.seconds)
        query = select(Run.product, *sums, func.max(Run.finished)).where(Run.state == "done").group_by(Run.product)
        with self._reading() as session:
            return {product: RunTotals(*totals) for product, *totals in session.execute(query)}

    def count_images(self, run_id: str) -> int:
        """How many images of a run something is noted of."""
        query = select(func.count()).select_from(RunImageRow).where(RunImageRow.run_id == run_id)
        with self._reading() as session:
            return session.scalar(query) or 0
