"""Pull: what experts did since the last time, as reviews in the catalog.

    tasks changed since the cursor -> annotations -> outcome of each region -> catalog, then the cursor

The cursor is the server's own `updated_at` of the newest task seen, so no other clock matters. Every pull looks a
little further back, because a transaction may end after one that began later; what is seen twice is stored once. An
annotation that is gone from its task is noted as withdrawn. Nothing in the catalog is ever changed or deleted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from integrations.catalog import Catalog, PredictionRecord, ReviewKey
from integrations.intake import Intake
from integrations.label_studio import projects
from integrations.label_studio.client import Client
from integrations.label_studio.listing import list_tasks
from integrations.label_studio.payload import Answer, read_answer
from integrations.label_studio.push import target_of
from saa_core.errors import ReviewError, ServiceError
from saa_core.reviews import RegionReview, Review, compare

OVERLAP = timedelta(minutes=2)

_PAGE = 250
_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"  # the server answers 500 to a stamp without microseconds
_FIELDS = "id,data,updated_at,annotations,result,parent_prediction,was_cancelled,lead_time,completed_by,created_at"

Advance = Callable[[str, int, int], None]
_Json = Mapping[str, Any]


@dataclass(slots=True)
class PullReport(Intake):
    """What a pull found, beside the reviews.

    Attributes:
        project: Id of the project.
        vanished: Images whose task is gone from the project; their reviews are kept.
        ignored: Regions of other kinds than masks, which are not read.
        foreign: Annotated tasks that `push` did not make.
    """

    project: int | None = None
    vanished: list[str] = field(default_factory=list)
    ignored: int = 0
    foreign: int = 0

    def remarks(self) -> list[str]:
        """What a person should know, a line each."""
        counts = {
            "tasks are gone from the project; their reviews are kept": len(self.vanished),
            "annotated tasks were not made by saa, and are not read": self.foreign,
            "regions are no masks, and are not read": self.ignored,
        }
        return [*Intake.remarks(self), *(f"{count} {what}" for what, count in counts.items() if count)]


def pull(
    client: Client, catalog: Catalog, product: str, project: int, advance: Advance = lambda *_: None
) -> PullReport:
    """Bring the experts' reviews of a product into the catalog.

    Args:
        client: The server.
        catalog: Where predictions are known and reviews go.
        product: What the images show.
        project: Id of its project on the server.
        advance: Told of the progress: step, done, total.

    Raises:
        ServiceError: The server does not answer, or the project is gone; the cursor has not moved.
        StoreError: The catalog cannot be written; the cursor has not moved.
    """
    return _Pull(client, catalog, product, project, advance).run()


class _Pull:
    def __init__(self, client: Client, catalog: Catalog, product: str, project: int, advance: Advance) -> None:
        self.client, self.catalog, self.product, self.project, self.advance = client, catalog, product, project, advance
        self.target = target_of(client, project)
        self.report = PullReport(project=project)
        pushed = catalog.pushed(self.target)
        self.image_of = {each.task: each.image for each in pushed}
        self.task_of = {each.image: each.task for each in pushed}  # a task that was deleted may have been made again
        self.size_of = catalog.sizes(set(self.image_of.values()))
        self.people: dict[int, str] | None = None

    def run(self) -> PullReport:
        # Asked first: a deleted project is an error here, while a list of its tasks would just be empty.
        total = int(projects.read_project(self.client, self.project)["task_number"])
        began = self.client.stamp()
        newest, seen, filters = "", set(), self._changed()
        for page in _pages(list_tasks(self.client, self.project, _FIELDS, filters, _PAGE)):
            self._store(page)
            newest = max(newest, *(str(task["updated_at"]) for task in page))
            seen |= {int(task["id"]) for task in page}
            self.advance("reading reviews", len(seen), total)
        there = {int(task["id"]) for task in list_tasks(self.client, self.project, "id")} if filters else seen
        self.report.vanished = sorted(image for image, task in self.task_of.items() if task not in there)
        if newest:
            self.catalog.add_reviews([], cursor=(self.target, _cursor(newest, began)))
        return self.report

    def _changed(self) -> list[dict[str, str]]:
        """The filter for what changed since the last pull; empty for everything."""
        cursor = self.catalog.cursor(self.target)
        if cursor is None:
            return []
        since = (datetime.fromisoformat(cursor) - OVERLAP).strftime(_STAMP)
        column = {"filter": "filter:tasks:updated_at", "type": "Datetime"}
        return [{**column, "operator": "greater_or_equal", "value": since}]

    def _store(self, tasks: Sequence[_Json]) -> None:
        """Store what is new in some tasks."""
        ours = {task["id"]: task for task in tasks if task["id"] in self.image_of}
        self.report.foreign += sum(bool(task["annotations"]) for task in tasks if task["id"] not in self.image_of)
        keys = {self.image_of[task] for task in ours}
        shown: dict[str, list[PredictionRecord]] = defaultdict(list)
        for record in self.catalog.predictions(self.target, images=keys):
            shown[record.image].append(record)
        before = self.catalog.review_keys(self.target, images=keys)
        found = [
            review for task in ours.values() for review in self._read(task, shown[self.image_of[task["id"]]], before)
        ]
        self.report.store(self.catalog, self.target, found)

    # ------------------------------------------------------------------------------------------------------- one task

    def _read(self, task: _Json, shown: Sequence[PredictionRecord], before: Iterable[ReviewKey]) -> Iterator[Review]:
        """The reviews of a task that the catalog does not have: new, changed and withdrawn ones."""
        of_task = f"{task['id']}/"
        known = [key for key in before if key.id.startswith(of_task)]
        versions = {(key.id, key.updated, key.state) for key in known}
        there = {f"{of_task}{annotation['id']}": annotation for annotation in task["annotations"]}
        for identity, annotation in there.items():
            state = "skipped" if annotation["was_cancelled"] else "submitted"
            if (identity, _moment(annotation["updated_at"]), state) not in versions:
                yield from self._review(identity, self.image_of[task["id"]], annotation, shown)
        for key in _newest(known):
            if key.id not in there and key.state != "withdrawn":
                yield self._withdrawn(key, max(key.updated, _moment(task["updated_at"])))

    def _review(
        self, identity: str, image: str, annotation: _Json, shown: Sequence[PredictionRecord]
    ) -> Iterator[Review]:
        try:
            answer = read_answer(annotation["result"], f"task/annotation {identity}", self.size_of[image])
            record = self._origin(annotation, answer, shown)
            skipped = annotation["was_cancelled"]
            yield Review(
                product=self.product,
                image=image,
                source=self.target,
                id=identity,
                state="skipped" if skipped else "submitted",
                annotator=self._person(annotation["completed_by"]),
                updated=_moment(annotation["updated_at"]),
                # What a skipped annotation holds is what was shown; nobody judged it.
                verdict=None if skipped else answer.verdict,
                words="",
                lead_seconds=annotation["lead_time"],
                run=record.run,
                bundle=record.bundle,
                aided=record.aided,
                regions=() if skipped else self._outcomes(annotation, answer, record),
            )
            self.report.ignored += 0 if skipped else answer.ignored
        except ReviewError as error:
            self.report.refused.append((f"task/annotation {identity}", error.reason))

    def _outcomes(self, annotation: _Json, answer: Answer, record: PredictionRecord) -> tuple[RegionReview, ...]:
        ids = {region.id for region in record.regions}
        regions = answer.regions
        started_from_it = record.aided and annotation["parent_prediction"] is not None
        if not started_from_it and not any(region.id in ids for region in regions):
            # Drawn on an empty image, or by a program that made up ids: what fits by its place is the same region.
            regions = tuple(replace(region, id=None) for region in regions)
        return compare(record.regions, regions)

    def _origin(self, annotation: _Json, answer: Answer, shown: Sequence[PredictionRecord]) -> PredictionRecord:
        """The prediction that the expert worked from: by region id, else by `parent_prediction`, else the newest."""
        ids = {region.id for region in answer.regions}
        for record in reversed(shown):
            if any(region.id in ids for region in record.regions):
                return record
        aided = [record for record in shown if record.aided]
        if len(aided) > 1 and annotation["parent_prediction"] is not None:
            version = self._version(annotation["parent_prediction"])
            return next((record for record in aided if record.version == version), aided[-1])
        return (aided or shown)[-1]

    def _version(self, prediction: int) -> str | None:
        try:
            return str(self.client.get(f"/api/predictions/{prediction}/")["model_version"])
        except ServiceError as error:
            if error.status == 404:
                return None
            raise

    def _withdrawn(self, key: ReviewKey, updated: datetime) -> Review:
        return Review(
            product=self.product,
            image=key.image,
            source=self.target,
            id=key.id,
            state="withdrawn",
            annotator=key.annotator,
            updated=updated,
            verdict=None,
            words="",
            lead_seconds=None,
            run=None,
            bundle=None,
            aided=True,
            regions=(),
        )

    def _person(self, user: int) -> str:
        """An annotator by e-mail address, which is what people know each other by there."""
        if self.people is None:
            self.people = {each["id"]: each["email"] for each in self.client.get("/api/users/")}
        return self.people.get(user) or f"user {user}"


def _newest(keys: Iterable[ReviewKey]) -> Iterable[ReviewKey]:
    """The last version of each review."""
    return {key.id: key for key in sorted(keys, key=lambda key: key.updated)}.values()


def _pages(tasks: Iterator[_Json]) -> Iterator[list[_Json]]:
    """Tasks in lists, of which the next is read from the server while one is worked on."""
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(_page, tasks)
        while page := coming.result():
            coming = reader.submit(_page, tasks)
            yield page


def _page(tasks: Iterator[_Json]) -> list[_Json]:
    return list(islice(tasks, _PAGE))


def _moment(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp).astimezone(UTC)


def _cursor(newest: str, began: datetime | None) -> str:
    """Up to where everything was seen: the newest change, but nothing after the pull began.

    A task that changes while later pages are read may have been passed already.
    """
    moment = _moment(newest)
    return min(moment, began or moment).strftime(_STAMP)
