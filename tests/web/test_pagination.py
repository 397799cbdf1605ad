"""Cursors of lists."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

LISTS = {
    "/v1/adapters": "ad",
    "/v1/api-keys": "key",
    "/v1/audit": "audit",
    "/v1/datasets": "ds",
    "/v1/datasets/imports": "imp",
    "/v1/datasets/uploads": "up",
    "/v1/evaluations": "eval",
    "/v1/jobs": "job",
    "/v1/score/batches": "batch",
    "/v1/webhooks": "wh",
}


@pytest.mark.parametrize("path", LISTS)
def test_cursor_of_another_list_is_refused(client: TestClient, path: str) -> None:
    """It would give the first page again, and a client that follows ``next`` would never end."""
    for prefix in {*LISTS.values(), "evt", "zz"}:
        answer = client.get(path, params={"after": f"{prefix}_{'0' * 32}"})
        if prefix == LISTS[path]:
            assert (answer.status_code, answer.json()["data"]) == (200, [])
        else:
            assert (answer.status_code, answer.json()["errors"][0]["loc"]) == (422, "/query/after")
