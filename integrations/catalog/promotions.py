"""Which bundle decides for a product: a pointer that moves forth and back, and the list of its moves."""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final, cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from integrations.catalog.models import Bundle, PromotionRow, RefinementRow
from integrations.catalog.records import BundleState, Promoting, PromotionRecord, RefinementRecord, now
from integrations.catalog.refinements import refinement_row
from integrations.catalog.tables import Tables, by_prefix, insert
from saa_core.errors import BundleError

_log = logging.getLogger(__name__)


class Unset(Enum):
    """The type of a value that was not given, where None is a value."""

    UNSET = "unset"


UNSET: Final = Unset.UNSET


class PromotionTables(Tables):
    """The part of a catalog that says which bundle is champion, and since when and why."""

    def promote(
        self,
        bundle_id: str,
        *,
        reason: str,
        who: str | None = None,
        expected: str | Unset | None = UNSET,
        refinement: RefinementRecord | None = None,
    ) -> PromotionRecord | None:
        """Make a bundle the champion of its product and retire the one before, both or neither.

        Args:
            bundle_id: Of a bundle in any state, or the beginning of its id.
            reason: Why, in words.
            who: Whose decision it is; None is the user of this process.
            expected: Id of the champion that the bundle was compared with, None if there was none. Not given, the
                bundle takes the place of any.
            refinement: Where the bundle comes from, to be noted with its promotion or not at all.

        Returns:
            What was noted; None if the bundle is the champion already.

        Raises:
            BundleError: No such bundle, or another champion than the expected one decides by now.
        """
        with self._writing() as session:
            bundle = by_prefix(session, Bundle, bundle_id, "bundle", BundleError)
            champion = _champion(session, bundle.product)
            if champion == bundle.id:
                return None
            if expected not in (UNSET, champion):
                raise BundleError(bundle.id, _overtaken(_moves(session, bundle.product), champion))
            if refinement is not None:
                insert(session, RefinementRow, [refinement_row(refinement)])
            return _move(session, "promote", bundle.product, champion, bundle.id, reason, who)

    def rollback(self, product: str, *, reason: str, who: str | None = None) -> PromotionRecord:
        """Go back to the champion before the present one; again, and it goes back one more.

        Before the first champion there was the bundle that it was made from: that decides then, whatever product it
        belongs to.

        Args:
            product: What is inspected.
            reason: Why, in words.
            who: As in `promote`.

        Raises:
            BundleError: There was no champion before.
        """
        with self._writing() as session:
            champion = _champion(session, product)
            before = _before(_moves(session, product)) or _parent(session, champion)
            if champion is None or before is None:
                first = f"{champion} is the first" if champion else "there was none yet"
                raise BundleError(product, f"no earlier champion to go back to: {first}")
            return _move(session, "rollback", product, champion, before, reason, who)

    def promotions(self, product: str) -> tuple[PromotionRecord, ...]:
        """Every change of a product's champion, oldest first."""
        with self._reading() as session:
            return _moves(session, product)


def _champion(session: Session, product: str) -> str | None:
    """The champion's id, which nobody else can change before this transaction ends."""
    # SQLite lets one transaction write at a time. PostgreSQL locks these rows, and whoever waits for them reads the
    # states that the other left.
    query = select(Bundle.id, Bundle.state).where(Bundle.product == product).order_by(Bundle.id).with_for_update()
    champion = next((found for found, state in session.execute(query).all() if state == "champion"), None)
    return champion or rolled_back_to(session, product)


def rolled_back_to(session: Session, product: str) -> str | None:
    """The bundle that the last move went back to; None if that was no rollback."""
    query = select(PromotionRow).where(PromotionRow.product == product).order_by(PromotionRow.number.desc()).limit(1)
    move = session.scalar(query)
    return move.bundle if move is not None and move.kind == "rollback" else None


def _parent(session: Session, bundle: str | None) -> str | None:
    """The bundle that one was made from, if the catalog has it."""
    row = None if bundle is None else session.get_one(Bundle, bundle)
    return None if row is None or row.parent is None or session.get(Bundle, row.parent) is None else row.parent


def _move(
    session: Session, kind: Promoting, product: str, previous: str | None, bundle: str, reason: str, who: str | None
) -> PromotionRecord:
    if previous is not None:
        _put(session, product, previous, "retired")  # first: the database allows one champion
    _put(session, product, bundle, "champion")
    row = PromotionRow(
        product=product, bundle=bundle, previous=previous, kind=kind, reason=reason, who=who or _user(), at=now()
    )
    session.add(row)
    session.flush()
    _log.info("bundle %s", kind, extra={"product": product, "bundle": bundle, "reason": reason})
    return _promotion(row)


def _put(session: Session, product: str, bundle: str, state: BundleState) -> None:
    """Of another product's bundle, such as the library's, the state stays."""
    session.execute(update(Bundle).where(Bundle.id == bundle, Bundle.product == product).values(state=state))


def _moves(session: Session, product: str) -> tuple[PromotionRecord, ...]:
    query = select(PromotionRow).where(PromotionRow.product == product).order_by(PromotionRow.number)
    return tuple(map(_promotion, session.scalars(query)))


def _before(moves: Iterable[PromotionRecord]) -> str | None:
    """The champion that a rollback leads to: promotions are a stack, and each rollback took one off."""
    stack: list[str | None] = []
    for move in moves:
        if move.kind == "rollback":
            stack.pop()
        else:
            stack.append(move.previous)
    return stack[-1] if stack else None


def _overtaken(moves: Sequence[PromotionRecord], champion: str | None) -> str:
    if champion is None:
        return "it was compared with a champion that its product does not have; refine again"
    by = f" by {moves[-1].who}" if moves else ""
    return f"{champion} was promoted meanwhile{by}; refine again"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, ImportError, OSError):  # in a container, a user may be a number without a name
        return f"user {os.getuid()}"


def _promotion(row: PromotionRow) -> PromotionRecord:
    kind = cast(Promoting, row.kind)
    return PromotionRecord(row.number, row.product, row.bundle, row.previous, kind, row.reason, row.who, row.at)
