"""The storage quota under concurrent uploads."""

from __future__ import annotations

import threading

from sqlalchemy import Engine

from app.core.database import new_id, transaction
from app.core.errors import QuotaError
from app.core.settings import Settings
from app.models import Blob, Dataset
from app.storage.quota import check_storage_quota


def test_concurrent_uploads_do_not_exceed_the_quota(engine: Engine, settings: Settings) -> None:
    limited = settings.model_copy(update={"quota_stored_bytes": 100})
    gate = threading.Barrier(4)
    refused: list[QuotaError] = []
    errors: list[Exception] = []

    def store(number: int) -> None:
        gate.wait()
        try:
            with transaction(engine) as session:
                check_storage_quota(session, limited, "acme", 60)
                blob = Blob(id=new_id("blob"), state="ready", sha256=f"{number:064x}", size=60)
                session.add(blob)
                session.flush()
                session.add(dataset(blob, number))
        except QuotaError as error:
            refused.append(error)
        except Exception as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(refused) == 3


def dataset(blob: Blob, number: int) -> Dataset:
    return Dataset(
        id=new_id("ds"), tenant_id="acme", source_format="jsonl", upload_identity=f"{number:064x}",
        upload_bytes=60, blob_id=blob.id, sha256=blob.sha256, bytes=60, pair_count=1,
        summary={"format": "text"},
    )  # fmt: skip
