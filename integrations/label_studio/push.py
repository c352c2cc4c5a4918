"""Push: the images of a run as tasks, its regions as predictions. Nothing that is there is sent again.

    project, labels -> what is there -> predictions for older tasks -> active version -> pictures -> tasks with
    predictions -> tabs

The server knows no idempotency, so it is made here: a task is known by our image key in its data, a prediction by its
task and version. Every batch is one transaction of the server; its counts are checked, and it is noted in the catalog
before the next one goes out. A killed push goes on where it stopped. A write is never sent twice: when its answer is
lost, the server is asked what became of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from integrations.batches import batches
from integrations.catalog import Catalog, PredictionRecord, now
from integrations.label_studio import projects
from integrations.label_studio.client import Client
from integrations.label_studio.images import ImageSource, PublishedImage
from integrations.label_studio.labeling_config import labels_in
from integrations.label_studio.listing import KnownTask, known_tasks
from integrations.label_studio.payload import prediction_json, task_json
from integrations.label_studio.planning import Plan, PushReport, PushRequest, make_plan
from integrations.labels import labels_of
from integrations.push_items import PushItem
from saa_core.errors import AnswerLostError, ServiceError

BATCH_ITEMS = 250
BATCH_BYTES = 12 << 20
"""A batch is one request of at most so many tasks and bytes; a single larger task goes alone."""

_SERVICE = "label-studio"

Advance = Callable[[str, int, int], None]
_Written = tuple[PushItem, bytes]


def push(
    client: Client,
    catalog: Catalog,
    request: PushRequest,
    images: Callable[[int], ImageSource],
    advance: Advance = lambda *_: None,
) -> PushReport:
    """Bring a run to Label Studio; what is there already is left as it is.

    Args:
        client: The server.
        catalog: Where it is noted what was pushed.
        request: What to push.
        images: Makes the source of pictures for a project.
        advance: Told of the progress: step, done, total.

    Raises:
        ServiceError: The server does not answer or refuses; the same push goes on where this one stopped.
        StoreError: The catalog or a picture cannot be written.
    """
    return _Push(client, catalog, request, images, advance).run()


def dry_push(client: Client, catalog: Catalog, request: PushRequest) -> PushReport:
    """What `push` would do. Nothing is written; whether the pictures can be read is not looked at.

    Raises:
        ServiceError: The server does not answer, refuses, or has a labeling config that cannot be used.
    """
    remembered = remembered_project(catalog, request.product, client)
    project = projects.find(client, request.product, labels_of(request.bundle), remembered=remembered)
    if project is None:
        report = PushReport(None, client.url, request.version, notes=[f"a project is made for {request.product!r}"])
        plan = make_plan(request, {}, {})
    else:
        report = _report(client, project, request)
        known, _ = known_tasks(client, project.id, request.version)
        pushed = catalog.pushed(target_of(project.id, project.created))
        plan = make_plan(request, known, {each.image: each.aided for each in pushed})
    _count(report, plan)
    report.tasks = len(plan.fresh)
    report.predictions = len(plan.lacking) + sum(item.ref.key not in plan.unaided for item in plan.fresh)
    return report


def target_of(project: int, created: str) -> str:
    """The name under which the catalog knows a project.

    The moment of its making is part of it, its server's URL is not: a server that was rebuilt numbers its projects from
    1 again, and one that moved has the same ones.

    Args:
        project: Its id.
        created: Its `created_at`, as the server writes it.
    """
    return f"{_SERVICE} project {project} of {created}"


def remembered_project(catalog: Catalog, product: str, client: Client) -> int | None:
    """The project that the catalog knows for a product on a server."""
    target = catalog.target(product, _SERVICE, client.url)
    return int(target.split()[2]) if target else None


class _Push:
    def __init__(
        self,
        client: Client,
        catalog: Catalog,
        request: PushRequest,
        images: Callable[[int], ImageSource],
        advance: Advance,
    ) -> None:
        self.client, self.catalog, self.request, self.advance = client, catalog, request, advance
        self.project = self._find_project()
        self.source = images(self.project.id)
        self.target = target_of(self.project.id, self.project.created)
        self.report = _report(client, self.project, request)
        self.active = False
        pushed = catalog.pushed(self.target)
        self.aided = {each.image: each.aided for each in pushed}
        self.noted = {(each.image, each.task) for each in pushed if each.version == request.version}

    def run(self) -> PushReport:
        config = self.project.config
        self.report.writes += self.project.made + projects.apply_config(self.client, self.project.id, config)
        known, repeated = known_tasks(self.client, self.project.id, self.request.version)
        if repeated:
            self.report.notes.append(f"{repeated} tasks repeat an image; the oldest of each is used")
        plan = make_plan(self.request, known, self.aided)
        _count(self.report, plan)
        self._look_back(plan)
        self._note(plan.present, known, plan)
        self._add_predictions(plan, known)
        if any(item.ref.key not in plan.unaided for item in (*plan.present, *plan.lacking)):
            self._activate()
        self._add_tasks(plan)
        self.report.writes += projects.ensure_tabs(self.client, self.project.id)
        return self.report

    def _activate(self) -> None:
        """Show experts this version; before the first of its predictions is there, the server refuses."""
        if self.active:
            return
        self.active = True
        if projects.activate(self.client, self.project.id, self.request.version):
            self.report.writes += 1
            if self.project.version:
                self.report.notes.append(f"experts now see these masks, no longer those of {self.project.version}")

    def _look_back(self, plan: Plan) -> None:
        """Tasks that only the server knew may have been answered already, and pulls passed them over as foreign."""
        if any(item.ref.key not in self.aided for item in (*plan.present, *plan.lacking)):
            self.catalog.add_reviews([], cursor=(self.target, "1970-01-01T00:00:00.000000Z"))

    def _find_project(self) -> projects.Project:
        product, labels = self.request.product, labels_of(self.request.bundle)
        remembered = remembered_project(self.catalog, product, self.client)
        project = projects.find_or_make(self.client, product, labels, remembered=remembered)
        target = target_of(project.id, project.created)
        if target != self.catalog.target(product, _SERVICE, self.client.url):
            self.catalog.remember_target(product, _SERVICE, self.client.url, target)
        return project

    # ---------------------------------------------------------------------------------------------------------- tasks

    def _add_tasks(self, plan: Plan) -> None:
        urls = self._publish(plan.fresh)
        ready = [item for item in plan.fresh if item.ref.key in urls]
        written = ((item, task_json(item, urls[item.ref.key], plan.version(item, self.request))) for item in ready)
        for batch in batches(written, BATCH_ITEMS, BATCH_BYTES):
            items = [item for item, _ in batch]
            self._note(items, self._import(batch, plan), plan)
            self.advance("pushing tasks", self.report.tasks, len(ready))

    def _publish(self, items: Sequence[PushItem]) -> Mapping[str, str]:
        """Make the pictures visible, and look at one of them as the browser will, before any task is made."""
        if not items:
            return {}
        images = [PublishedImage(item.ref.key, item.name, item.ref.uri, item.height, item.width) for item in items]
        self.advance("publishing images", 0, len(images))
        published = self.source.publish(images)
        self.report.writes += self.source.writes
        self.report.refused += [(refused.name, refused.reason) for refused in published.refused]
        first = next((image for image in images if image.key in published.urls), None)
        if first is not None:
            self.source.check(first, published.urls[first.key])
        self.advance("publishing images", len(images), len(images))
        return published.urls

    def _import(self, batch: Sequence[_Written], plan: Plan) -> dict[str, KnownTask]:
        """Make tasks with their predictions, in one transaction of the server."""
        items = [item for item, _ in batch]
        aided = sum(item.ref.key not in plan.unaided for item in items)
        self._check_labels()
        self.report.writes += 1
        try:
            answer = self.client.post(f"{self._api}/import", _list(batch), {"return_task_ids": "true"})
            self._check_count("tasks", len(answer["task_ids"]), len(items))
            self._check_count("predictions", answer["prediction_count"], aided)
            ids = zip(items, answer["task_ids"], strict=True)
            made = {item.ref.key: KnownTask(number, True, False) for item, number in ids}
        except AnswerLostError as error:
            made = self._settled(error, items, plan)
        self.report.tasks += len(items)
        self.report.predictions += aided
        if aided:
            self._activate()
        return made

    # ---------------------------------------------------------------------------------------------------- predictions

    def _add_predictions(self, plan: Plan, known: Mapping[str, KnownTask]) -> None:
        version, done = self.request.version, 0
        written = ((item, prediction_json(item, known[item.ref.key].id, version)) for item in plan.lacking)
        for batch in batches(written, BATCH_ITEMS, BATCH_BYTES):
            self._import_predictions(batch, plan)
            self._note([item for item, _ in batch], known, plan)
            done += len(batch)
            self.advance("pushing predictions", done, len(plan.lacking))

    def _import_predictions(self, batch: Sequence[_Written], plan: Plan) -> None:
        self._check_labels()
        self.report.writes += 1
        try:
            answer = self.client.post(f"{self._api}/import/predictions", _list(batch))
            self._check_count("predictions", answer["created"], len(batch))
        except AnswerLostError as error:
            self._settled(error, [item for item, _ in batch], plan)
        self.report.predictions += len(batch)

    # --------------------------------------------------------------------------------------------------------- checks

    @property
    def _api(self) -> str:
        return f"/api/projects/{self.project.id}"

    def _settled(self, lost: AnswerLostError, items: Sequence[PushItem], plan: Plan) -> dict[str, KnownTask]:
        """What became of a batch whose answer was lost. It is one transaction: all of it is there, or nothing is.

        The server may still be working on it, so it is given time; it is never sent again.
        """
        end, pause = time.monotonic() + self.request.patience, 0.5
        while True:
            known, _ = known_tasks(self.client, self.project.id, self.request.version)
            tasks = [(item.ref.key in plan.unaided, known.get(item.ref.key)) for item in items]
            if all(task is not None and (unaided or task.predicted) for unaided, task in tasks):
                return known
            if time.monotonic() > end:
                raise lost
            time.sleep(pause)
            pause = min(2 * pause, 8.0)

    def _check_labels(self) -> None:
        """A label that vanished meanwhile would be stored and shown wrong, or dropped, without an error."""
        now_there = labels_in(projects.read_project(self.client, self.project.id)["label_config"])
        gone = set(labels_of(self.request.bundle)) - set(now_there)
        if gone:
            reason = f"its labeling config lost {', '.join(sorted(gone))} during the push; run the same command again"
            raise ServiceError(self.report.url, reason)

    def _check_count(self, what: str, stored: int, sent: int) -> None:
        if stored != sent:
            raise ServiceError(
                self.report.url,
                f"the server stored {stored} of {sent} {what} of a batch and named no error: it was busy, or the "
                "project's labeling config does not fit; run the same command again, it adds what is missing",
            )

    # ---------------------------------------------------------------------------------------------------- the catalog

    def _note(self, items: Iterable[PushItem], known: Mapping[str, KnownTask], plan: Plan) -> None:
        """Tell the catalog what is on the server, also what a killed push left there; what it knows is not touched."""
        new = [item for item in items if (item.ref.key, known[item.ref.key].id) not in self.noted]
        self.catalog.record_predictions(self._record(item, known[item.ref.key].id, plan) for item in new)

    def _record(self, item: PushItem, task: int, plan: Plan) -> PredictionRecord:
        return PredictionRecord(
            target=self.target,
            image=item.ref.key,
            run=self.request.run,
            bundle=self.request.bundle.id,
            version=self.request.version,
            task=task,
            aided=item.ref.key not in plan.unaided,
            priority=item.priority,
            regions=item.regions,
            pushed=now(),
        )


def _report(client: Client, project: projects.Project, request: PushRequest) -> PushReport:
    """A report with what there is to say of the project."""
    config, notes = project.config, list(project.notes)
    if config.added and not project.made:
        notes.append(f"labels added to the labeling config: {', '.join(config.added)}")
    if config.kept and config.changed:
        notes.append(f"labels that this bundle does not use are kept: {', '.join(config.kept)}")
    if config.restored:
        notes.append(f"put back into the labeling config: {', '.join(config.restored)}")
    return PushReport(project.id, f"{client.url}/projects/{project.id}/data", request.version, notes=notes)


def _count(report: PushReport, plan: Plan) -> None:
    report.present, report.unaided = len(plan.present), len(plan.unaided)
    report.refused += plan.refused


def _list(batch: Iterable[_Written]) -> bytes:
    return b"[" + b",".join(content for _, content in batch) + b"]"
