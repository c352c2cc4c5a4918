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
from integrations.label_studio.payload import KEY, Answer, read_answer
from integrations.label_studio.push import target_of
from saa_core.errors import ReviewError, ServiceError
from saa_core.reviews import RegionReview, Review, ReviewState, Verdict, compare

OVERLAP = timedelta(minutes=1)

_PAGE = 250
_STORED = 50
"""Tasks whose reviews are stored at once."""
_ASKED = 25
"""Tasks whose predictions are asked for at once: they come with all their masks."""
_STAMP = "%Y-%m-%dT%H:%M:%S.%fZ"  # the server answers 500 to a stamp without microseconds
_FIELDS = "id,data,updated_at,annotations,result,parent_prediction,was_cancelled,lead_time,completed_by"

Advance = Callable[[str, int, int], None]
_Json = Mapping[str, Any]


@dataclass(slots=True)
class PullReport(Intake):
    """What a pull found, beside the reviews.

    Attributes:
        project: Id of the project.
        vanished: Names of images whose task is gone from the project; their reviews are kept.
        ignored: Rows of other controls than ours, such as boxes, which are not read.
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
            "regions or answers of other controls than ours are not read": self.ignored,
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
        # Asked first: a deleted project is an error here, while a list of its tasks would just be empty.
        content = projects.read_project(client, project)
        self.began = client.stamp()
        self.total = int(content["task_number"])
        self.target = target_of(project, content["created_at"])
        self.report = PullReport(project=project)
        pushed = catalog.pushed(self.target)
        if not pushed:
            reason = "not the project that was pushed to, another server may have this address now; push again"
            raise ServiceError(f"{client.url} project {project}", reason)
        self.task_of = {each.image: each.task for each in pushed}  # a task that was deleted may have been made again
        self.size_of = catalog.sizes(self.task_of.keys())
        self.versions: dict[int, str] = {}
        self.people: dict[int, str] | None = None

    def run(self) -> PullReport:
        newest, filters = "", self._changed()
        seen: set[int] = set()
        for tasks in _in_lists(list_tasks(self.client, self.project, _FIELDS, filters, _PAGE)):
            self._store(tasks)
            newest = max(newest, *(str(task["updated_at"]) for task in tasks))
            seen |= {int(task["id"]) for task in tasks}
            self.advance("reading reviews", len(seen), self.total)
        there = {int(task["id"]) for task in list_tasks(self.client, self.project, "id")} if filters else seen
        vanished = {image for image, task in self.task_of.items() if task not in there}
        self.report.vanished = sorted(self.catalog.names(self.product, vanished).values())
        if newest:
            self.catalog.add_reviews([], cursor=(self.target, self._cursor(newest)))
        return self.report

    def _changed(self) -> list[dict[str, str]]:
        """The filter for what changed since the last pull; empty for everything."""
        cursor = self.catalog.cursor(self.target)
        if cursor is None or _moment(cursor) > (self.began or _moment(cursor)) + OVERLAP:
            return []  # never, or the server's clock was set back since: what it stamps now lies behind the cursor
        since = (_moment(cursor) - OVERLAP).strftime(_STAMP)
        column = {"filter": "filter:tasks:updated_at", "type": "Datetime"}
        return [{**column, "operator": "greater_or_equal", "value": since}]

    def _cursor(self, newest: str) -> str:
        """Up to where everything was seen: the newest change, but nothing after the pull began.

        A task that changes while later pages are read may have been passed already.
        """
        moment = _moment(newest)
        return min(moment, self.began or moment).strftime(_STAMP)

    def _store(self, tasks: Sequence[_Json]) -> None:
        """Store what is new in some tasks."""
        # By our key in the task, not by its number: an image may have a second task.
        ours = [task for task in tasks if task["data"].get(KEY) in self.task_of]
        others = [task for task in tasks if task["data"].get(KEY) not in self.task_of]
        self.report.foreign += sum(bool(task["annotations"]) for task in others)
        keys = {task["data"][KEY] for task in ours}
        shown: dict[str, list[PredictionRecord]] = defaultdict(list)
        for record in self.catalog.predictions(self.target, images=keys):
            shown[record.image].append(record)
        self._learn_versions([task for task in ours if _is_ambiguous(task, shown[task["data"][KEY]])])
        before = self._known(keys)
        found = [
            review for task in ours for review in self._read(task, shown[task["data"][KEY]], before[str(task["id"])])
        ]
        self.report.store(self.catalog, self.target, found)

    def _known(self, images: set[str]) -> dict[str, list[ReviewKey]]:
        """Which reviews of some images the catalog has, by task."""
        known: dict[str, list[ReviewKey]] = defaultdict(list)
        for key in self.catalog.review_keys(self.target, images):
            known[key.id.partition("/")[0]].append(key)
        return known

    def _learn_versions(self, tasks: Sequence[_Json]) -> None:
        """Ask for the versions of some tasks' predictions."""
        column = {"filter": "filter:tasks:id", "operator": "in_list", "type": "Number"}
        for start in range(0, len(tasks), _ASKED):
            asked = [{**column, "value": [task["id"] for task in tasks[start : start + _ASKED]]}]
            for task in list_tasks(self.client, self.project, "id,predictions", asked):
                self.versions |= {each["id"]: each["model_version"] for each in task["predictions"]}

    # ------------------------------------------------------------------------------------------------------- one task

    def _read(self, task: _Json, shown: Sequence[PredictionRecord], known: Sequence[ReviewKey]) -> Iterator[Review]:
        """The reviews of a task that the catalog does not have: new, changed and withdrawn ones."""
        versions = {(key.id, key.updated) for key in known if key.state != "withdrawn"}
        there = {f"{task['id']}/{annotation['id']}": annotation for annotation in task["annotations"]}
        for identity, annotation in there.items():
            if (identity, _moment(annotation["updated_at"])) not in versions:
                yield self._review(identity, annotation, shown)
        for key in _newest(known):
            if key.id not in there and key.state != "withdrawn":
                yield self._withdrawn(key, max(key.updated, _moment(task["updated_at"])))

    def _review(self, identity: str, annotation: _Json, shown: Sequence[PredictionRecord]) -> Review:
        name = f"task/annotation {identity}"
        try:
            answer = read_answer(annotation["result"], name, self.size_of[shown[-1].image])
            record = self._origin(annotation, answer, shown)
            if annotation["was_cancelled"]:  # it holds what was shown, which nobody judged
                return self._version(identity, annotation, record, "skipped")
            outcomes = self._outcomes(annotation, answer, record)
            self.report.ignored += answer.ignored
            return self._version(identity, annotation, record, "submitted", answer.verdict, outcomes)
        except ReviewError as error:
            # Stored, for what the expert said before does not count any more.
            self.report.refused.append((name, error.reason))
            return self._version(identity, annotation, shown[-1], "unreadable")

    def _version(
        self,
        identity: str,
        annotation: _Json,
        record: PredictionRecord,
        state: ReviewState,
        verdict: Verdict | None = None,
        regions: tuple[RegionReview, ...] = (),
    ) -> Review:
        return Review(
            product=self.product,
            image=record.image,
            source=self.target,
            id=identity,
            state=state,
            annotator=self._person(annotation["completed_by"]),
            updated=_moment(annotation["updated_at"]),
            verdict=verdict,
            words="",
            lead_seconds=annotation["lead_time"],
            run=record.run,
            bundle=record.bundle,
            aided=record.aided,
            regions=regions,
        )

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
        record = _by_region_id([region.id for region in answer.regions], shown)
        if record is not None:
            return record
        aided = [each for each in shown if each.aided]
        version = self.versions.get(annotation["parent_prediction"])
        return next((each for each in aided if each.version == version), (aided or shown)[-1])

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


def _is_ambiguous(task: _Json, shown: Sequence[PredictionRecord]) -> bool:
    """Whether only the number of a prediction tells which one an annotation was made from."""
    if sum(record.aided for record in shown) < 2:
        return False
    ids = ([row.get("id") for row in each["result"] if isinstance(row, dict)] for each in task["annotations"])
    return any(_by_region_id(each, shown) is None for each in ids)


def _by_region_id(ids: Iterable[str | None], shown: Sequence[PredictionRecord]) -> PredictionRecord | None:
    """The newest prediction that has one of these regions."""
    wanted = set(ids)
    return next((each for each in reversed(shown) if any(region.id in wanted for region in each.regions)), None)


def _newest(keys: Iterable[ReviewKey]) -> Iterable[ReviewKey]:
    """The last version of each review."""
    return {key.id: key for key in sorted(keys, key=lambda key: key.updated)}.values()


def _in_lists(tasks: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Tasks in lists, of which the next is read from the server while one is worked on."""

    def following() -> list[dict[str, Any]]:
        return list(islice(tasks, _STORED))

    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(following)
        while found := coming.result():
            coming = reader.submit(following)
            yield found


def _moment(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp).astimezone(UTC)
