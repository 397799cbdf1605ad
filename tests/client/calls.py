"""Calls of the client for each operation of the API."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.world import BASE_MODEL, pairs

DOCUMENT = json.loads((Path(__file__).parents[2] / "docs" / "openapi.json").read_text())
_ZEROES = "0" * 32


@dataclass(frozen=True)
class Ids:
    """Ids that the calls use; the defaults do not exist."""

    directory: Path
    """Directory for downloads."""
    job: str = f"job_{_ZEROES}"
    dataset: str = f"ds_{_ZEROES}"
    adapter: str = f"ad_{_ZEROES}"
    key: str = f"key_{_ZEROES}"
    webhook: str = f"wh_{_ZEROES}"
    evaluation: str = f"eval_{_ZEROES}"
    batch: str = f"batch_{_ZEROES}"
    base_model: str = "no-such-model"
    upload: str = f"up_{_ZEROES}"
    dataset_import: str = f"imp_{_ZEROES}"

    def pairs_file(self) -> Path:
        """Return a file to upload."""
        path = self.directory / "part.jsonl"
        path.write_bytes(pairs(2))
        return path


Call = Callable[[Any, Ids], Any]

ROWS = [{"prompt": "a", "chosen": "b", "rejected": "c"}]
#: Calls by operation id. Iterators are consumed.
CALLS: dict[str, Call] = {
    "health": lambda client, ids: client.health(),
    "readiness": lambda client, ids: client.readiness(),
    "explain_problem": lambda client, ids: client.explain_problem("no_such_code"),
    "metrics": lambda client, ids: client.metrics(),
    "create_job": lambda client, ids: client.jobs.create(
        base_model=BASE_MODEL, train_dataset=ids.dataset
    ),
    "list_jobs": lambda client, ids: list(client.jobs.list()),
    "clone_job": lambda client, ids: client.jobs.clone(ids.job),
    "get_job": lambda client, ids: client.jobs.get(ids.job),
    "update_job": lambda client, ids: client.jobs.update(ids.job, name="new"),
    "delete_job": lambda client, ids: client.jobs.delete(ids.job),
    "cancel_job": lambda client, ids: client.jobs.cancel(ids.job),
    "pause_job": lambda client, ids: client.jobs.pause(ids.job),
    "resume_job": lambda client, ids: client.jobs.resume(ids.job),
    "list_events": lambda client, ids: list(client.jobs.events(ids.job, follow=False)),
    "get_metrics": lambda client, ids: client.jobs.metrics(ids.job),
    "get_logs": lambda client, ids: list(client.jobs.logs(ids.job)),
    "list_checkpoints": lambda client, ids: client.jobs.checkpoints(ids.job),
    "get_report": lambda client, ids: client.jobs.report(ids.job, "memory"),
    "get_dataset_report": lambda client, ids: client.datasets.report(ids.dataset, BASE_MODEL),
    "get_queue": lambda client, ids: list(client.queue.list()),
    "list_workers": lambda client, ids: list(client.workers.list()),
    "create_dataset": lambda client, ids: client.datasets.upload(ROWS),
    "open_upload": lambda client, ids: client.datasets.uploads.create(name="shards"),
    "list_uploads": lambda client, ids: list(client.datasets.uploads.list()),
    "get_upload": lambda client, ids: client.datasets.uploads.get(ids.upload),
    "put_upload_part": lambda client, ids: client.datasets.uploads.put(
        ids.upload, 1, ids.pairs_file()
    ),
    "finish_upload": lambda client, ids: client.datasets.uploads.finish(ids.upload),
    "delete_upload": lambda client, ids: client.datasets.uploads.delete(ids.upload),
    "create_import": lambda client, ids: client.datasets.imports.create(source="hub:acme/pairs"),
    "list_imports": lambda client, ids: list(client.datasets.imports.list()),
    "get_import": lambda client, ids: client.datasets.imports.get(ids.dataset_import),
    "cancel_import": lambda client, ids: client.datasets.imports.cancel(ids.dataset_import),
    "list_datasets": lambda client, ids: list(client.datasets.list()),
    "get_dataset": lambda client, ids: client.datasets.get(ids.dataset),
    "delete_dataset": lambda client, ids: client.datasets.delete(ids.dataset),
    "preview_dataset": lambda client, ids: client.datasets.preview(ids.dataset),
    "download_dataset": lambda client, ids: client.datasets.download(
        ids.dataset, ids.directory / "pairs.jsonl"
    ),
    "list_adapters": lambda client, ids: list(client.adapters.list()),
    "get_adapter": lambda client, ids: client.adapters.get(ids.adapter),
    "delete_adapter": lambda client, ids: client.adapters.delete(ids.adapter),
    "download_file": lambda client, ids: client.adapters.download(
        ids.adapter, ids.directory / "files"
    ),
    "download_archive": lambda client, ids: client.adapters.download_archive(
        ids.adapter, ids.directory / "adapter.tar"
    ),
    "merge_adapter": lambda client, ids: client.adapters.merge(ids.adapter),
    "get_merge": lambda client, ids: client.adapters.get_merge(ids.adapter),
    "get_report_page": lambda client, ids: client.jobs.report_page(ids.job),
    "get_report_document": lambda client, ids: client.jobs.full_report(ids.job),
    "get_evaluation_page": lambda client, ids: client.evaluations.report_page(ids.evaluation),
    "get_evaluation_document": lambda client, ids: client.evaluations.report(ids.evaluation),
    "get_comparison_page": lambda client, ids: client.comparisons.report_page(
        ids.evaluation, ids.evaluation
    ),
    "create_scores": lambda client, ids: client.score(ids.adapter, inputs=[{"text": "a"}]),
    "create_score_batch": lambda client, ids: client.score_batches.create(
        adapter=ids.adapter, dataset=ids.dataset
    ),
    "list_score_batches": lambda client, ids: list(client.score_batches.list()),
    "get_score_batch": lambda client, ids: client.score_batches.get(ids.batch),
    "cancel_score_batch": lambda client, ids: client.score_batches.cancel(ids.batch),
    "delete_score_batch": lambda client, ids: client.score_batches.delete(ids.batch),
    "list_score_batch_events": lambda client, ids: list(
        client.score_batches.events(ids.batch, follow=False)
    ),
    "get_batch_scores": lambda client, ids: client.score_batches.download(
        ids.batch, ids.directory / "scores.jsonl"
    ),
    "list_suites": lambda client, ids: list(client.suites.list()),
    "create_evaluation": lambda client, ids: client.evaluations.create(
        adapters=[ids.adapter], dataset=ids.dataset
    ),
    "list_evaluations": lambda client, ids: list(client.evaluations.list()),
    "get_evaluation": lambda client, ids: client.evaluations.get(ids.evaluation),
    "cancel_evaluation": lambda client, ids: client.evaluations.cancel(ids.evaluation),
    "delete_evaluation": lambda client, ids: client.evaluations.delete(ids.evaluation),
    "list_evaluation_events": lambda client, ids: list(
        client.evaluations.events(ids.evaluation, follow=False)
    ),
    "get_scores": lambda client, ids: client.evaluations.scores(ids.evaluation),
    "get_worst_pairs": lambda client, ids: client.evaluations.worst_pairs(ids.evaluation),
    "compare": lambda client, ids: client.comparisons.get(ids.evaluation, ids.evaluation),
    "list_base_models": lambda client, ids: list(client.base_models.list()),
    "get_base_model": lambda client, ids: client.base_models.get(ids.base_model),
    "create_api_key": lambda client, ids: client.api_keys.create(name="new", scopes=["jobs:read"]),
    "list_api_keys": lambda client, ids: list(client.api_keys.list()),
    "revoke_api_key": lambda client, ids: client.api_keys.revoke(ids.key),
    "create_webhook": lambda client, ids: client.webhooks.create(url="http://localhost:9/"),
    "list_webhooks": lambda client, ids: list(client.webhooks.list()),
    "get_webhook": lambda client, ids: client.webhooks.get(ids.webhook),
    "delete_webhook": lambda client, ids: client.webhooks.delete(ids.webhook),
    "test_webhook": lambda client, ids: client.webhooks.test(ids.webhook),
    "list_deliveries": lambda client, ids: list(client.webhooks.deliveries(ids.webhook)),
    "rotate_webhook_secret": lambda client, ids: client.webhooks.rotate_secret(ids.webhook),
    "list_usage": lambda client, ids: client.usage.per_day(7),
    "push_adapter": lambda client, ids: client.adapters.push(ids.adapter, "acme/rewards"),
    "get_push": lambda client, ids: client.adapters.get_push(ids.adapter),
    "list_audit": lambda client, ids: list(client.audit.list()),
}
#: Downloads first request the adapter or the dataset, for the size and sha256 of a file.
ASKED_FIRST = {
    "download_file": "get_adapter",
    "download_archive": "get_adapter",
    "download_dataset": "get_dataset",
    "get_batch_scores": "get_score_batch",
}
#: The sizes and hashes of HEAD responses are also in the response of get_adapter.
NOT_NEEDED = {"head_download_file", "head_download_archive"}


def operations() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """Return method, path and description of every operation by its id."""
    return {
        operation["operationId"]: (method.upper(), path, operation)
        for path, item in DOCUMENT["paths"].items()
        for method, operation in item.items()
    }
