"""The services that bench/api.py measures: a database full of jobs, and one uvicorn process.

python -m bench.api_service PORT      serve the API of the environment's settings
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi.responses import FileResponse
from sqlalchemy import Engine, insert, select, text
from starlette.testclient import TestClient

from app.api_keys import service as api_keys
from app.auth.scopes import Scope
from app.core.database import make_engine, new_id, transaction
from app.core.logging import configure_logging
from app.core.migrations import migrate
from app.core.settings import Settings
from app.main import create_app
from app.models import Job
from tests import services
from tests.world import World

QUEUED_JOBS = 400


class Subject:
    """A service whose database holds ``jobs`` jobs of one tenant, one of them with an adapter."""

    def __init__(self, folder: Path, url: str, jobs: int, megabytes: int) -> None:
        folder.mkdir()
        self.settings = Settings(data_dir=folder, database_url=url)  # type: ignore[arg-type]
        self.engine = make_engine(url)
        self.port = services.free_port()
        migrate(self.engine)
        with transaction(self.engine) as session:
            self.token = api_keys.create(session, "bench", "bench", [Scope.ADMIN], None).token
        self.file = folder / "adapter.bin"
        self.file.write_bytes(os.urandom(1 << 20) * megabytes)
        with TestClient(create_app(self.settings)) as client:
            client.headers["Authorization"] = f"Bearer {self.token}"
            world = World(client, self.engine, self.settings)
            world.know_base_model()
            self.spec = world.spec()
            job = world.submit(**self.spec)
            files = {"adapter_model.safetensors": self.file.read_bytes()}
            adapter = world.publish(world.claim(), files)
            queued = world.submit(**self.spec)
        self.job_path = f"/v1/jobs/{job['id']}"
        self.file_path = f"/v1/adapters/{adapter}/files/adapter_model.safetensors"
        copy_job(self.engine, job["id"], jobs)
        copy_job(self.engine, queued["id"], QUEUED_JOBS)
        if self.engine.dialect.name == "postgresql":
            # Autovacuum would do this a little later.
            with self.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT")
                connection.execute(text("ANALYZE"))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the service on its port."""
        environment = {
            **os.environ,
            "PLAUDIT_DATABASE_URL": self.settings.database,
            "PLAUDIT_DATA_DIR": str(self.settings.data_dir),
            "BENCH_FILE": str(self.file),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.api_service", str(self.port)], env=environment
        )
        try:
            services.wait_until("the server", lambda: is_up(self.port), 60)
            yield
        finally:
            process.terminate()
            process.wait()

    async def etag(self) -> str:
        """Return the ETag of the finished job."""
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}") as client:
            headers = {"Authorization": f"Bearer {self.token}"}
            response = await client.get(self.job_path, headers=headers)
        return str(response.headers["etag"])


def copy_job(engine: Engine, job_id: str, count: int) -> None:
    """Insert ``count`` copies of a job, without its adapter."""
    with engine.connect() as connection:
        values: dict[str, Any] = dict(
            connection.execute(select(Job.__table__).where(Job.id == job_id)).mappings().one()
        )
    values |= {"adapter_id": None}
    for start in range(0, count, 10_000):
        rows = [values | {"id": new_id("job")} for _ in range(start, min(start + 10_000, count))]
        with engine.begin() as connection:
            connection.execute(insert(Job.__table__), rows)


def is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def serve(port: int) -> None:
    """Serve the API and, on the same server, the endpoints that it is compared with."""
    configure_logging(open(os.devnull, "w"))  # noqa: SIM115
    app = create_app()

    @app.get("/empty")
    async def empty() -> dict[str, str]:
        return {}

    @app.get("/file")
    async def file() -> FileResponse:
        return FileResponse(os.environ["BENCH_FILE"])

    uvicorn.run(app, port=port, log_level="error", access_log=False)


@contextmanager
def databases(folder: Path, url: str | None) -> Iterator[list[str]]:
    """Yield the URLs of two empty databases."""
    if url is None:
        yield [f"sqlite:///{folder / name}.db" for name in ("few", "many")]
        return
    stamp = f"bench_{os.getpid()}"
    with (
        services.fresh_database(url, f"{stamp}_few") as few,
        services.fresh_database(url, f"{stamp}_many") as many,
    ):
        yield [few, many]


if __name__ == "__main__":
    serve(int(sys.argv[1]))
