"""An idle tenant: its data must be unchanged after all attacks, and hidden from other tenants."""

from __future__ import annotations

from typing import Any

from bench.attack.sending import upload
from bench.attack.target import Target

TENANT = "witness"
LISTS = ("/v1/datasets", "/v1/jobs", "/v1/adapters", "/v1/webhooks", "/v1/audit", "/v1/queue")


class Witness:
    """Stores data, and checks later whether they changed or are visible to another tenant."""

    def __init__(self, target: Target) -> None:
        self._target = target
        with target.client(TENANT) as client:
            self._dataset: str = upload(client, TENANT).json()["id"]
        self._before = self._look()

    def changes(self) -> list[str]:
        """Return a sentence for each change, and for each resource that another tenant can see."""
        now = self._look()
        found = [
            f"{path} of the witness changed" for path in now if now[path] != self._before[path]
        ]
        with self._target.client("acme") as client:
            for path in (f"/v1/datasets/{self._dataset}", f"/v1/datasets/{self._dataset}/content"):
                if (status := client.get(path).status_code) != 404:
                    found.append(f"{path} of the witness is {status} for another tenant")
        return found

    def _look(self) -> dict[str, Any]:
        with self._target.client(TENANT) as client:
            found = {path: client.get(path).json()["data"] for path in LISTS}
            content = f"/v1/datasets/{self._dataset}/content"
            return {**found, content: client.get(content).content}
