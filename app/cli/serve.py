"""``plaudit serve``, ``worker``, ``scorer`` and ``migrate``: the service's own processes."""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from app.api_keys.defaults import FIRST_KEY_FILE
from app.cli.database import connect_database, read_catalogue, read_settings, require_current
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import notes, plain
from app.cli.supervision import WorkerSupervisor, end_with_parent
from app.core.logging import configure_logging
from app.core.settings import Settings

if TYPE_CHECKING:
    import uvicorn
    from sqlalchemy import Engine

#: Time that open requests get to finish at shutdown.
CLOSE_SECONDS = 5
#: Connections that the kernel queues while the process is busy.
BACKLOG = 2048
#: Time after which a connection whose client acknowledges no data is closed.
STALLED_MS = 60_000
#: How long another thread may hold the interpreter while the event loop waits for it. With Python's
#: 5 ms, eight busy threads delayed each step of the loop by up to 40 ms.
SWITCH_SECONDS = 0.001
_LISTEN_HINTS: dict[int | None, str] = {
    errno.EADDRINUSE: "Is another service running there? Choose another port with --port.",
    errno.EACCES: "Choose a port above 1023 with --port.",
}


def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; overrides PLAUDIT_HOST (127.0.0.1).")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; overrides PLAUDIT_PORT (8000).")
    ] = None,
    has_no_worker: Annotated[
        bool, typer.Option("--no-worker", help="Embedded service: run the API without a worker.")
    ] = False,
    parent: Annotated[int | None, typer.Option("--with-parent", hidden=True)] = None,
) -> None:
    """Serve the API.

    Without PLAUDIT_REDIS_URL the service is embedded: the command migrates the database, creates a
    first API key and runs one worker next to the API. With PLAUDIT_REDIS_URL it runs the API only;
    run 'plaudit worker' on the GPU machines.
    """
    if parent is not None:
        end_with_parent(parent)
    settings = read_settings(host=host, port=port)
    read_catalogue(settings)  # an invalid catalogue must end the command before the URL is printed
    with _listen(settings) as listener:
        settings = _with_public_url(settings, listener.getsockname()[1])
        with connect_database(settings) as engine:
            if settings.is_embedded:
                _prepare(engine, settings)
            else:
                require_current(engine)
        configure_logging()
        has_worker = settings.is_embedded and not has_no_worker
        supervisor = WorkerSupervisor(settings.drain_seconds) if has_worker else None
        _run(settings, listener, supervisor)


def worker() -> None:
    """Run a worker that trains jobs. It takes them from the broker at PLAUDIT_REDIS_URL, or polls
    the embedded database."""
    settings = read_settings()
    read_catalogue(settings)
    with connect_database(settings) as engine:
        require_current(engine)
        settings.data_dir.mkdir(0o700, parents=True, exist_ok=True)
    _replace_process(sys.executable, "-P", "-m", "worker")


def scorer() -> None:
    """Run a scorer, which scores replies for the API. It requires PLAUDIT_SCORER_TOKEN."""
    settings = read_settings()
    read_catalogue(settings)
    with connect_database(settings) as engine:
        require_current(engine)
        settings.data_dir.mkdir(0o700, parents=True, exist_ok=True)
    _replace_process(sys.executable, "-P", "-m", "worker.scorer")


def run_migrations() -> None:
    """Migrate the database to the schema of this version. Does nothing if it is up to date."""
    from app.core.migrations import is_current, migrate

    with connect_database(read_settings()) as engine:
        had_them = is_current(engine)
        migrate(engine)
    notes.print(plain("The database was up to date." if had_them else "The database is migrated."))


def _prepare(engine: Engine, settings: Settings) -> None:
    """Migrate the database and create the first key: operators of a production service run these
    steps themselves."""
    from app.api_keys.service import first_key
    from app.core.migrations import migrate

    migrate(engine)
    first_key(engine, settings.data_dir)
    notes.print(plain(f"Plaudit   {settings.public_url}"))
    notes.print(plain(f"API key   in {settings.data_dir / FIRST_KEY_FILE}"))


def _with_public_url(settings: Settings, port: int) -> Settings:
    """Set the public URL to the address on which the service listens, unless it is configured."""
    if "public_url" in settings.model_fields_set:
        return settings
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    return settings.model_copy(update={"public_url": url})


def _listen(settings: Settings) -> socket.socket:
    """Open the listening socket. A port that is in use must end the command before a worker
    starts, and connections wait from the moment at which the URL is printed."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; each connection inherits it
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_MS)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise CommandError(
            f"Cannot listen on {settings.host}, port {settings.port}: {error.strerror}.",
            ExitCode.FAILED,
            _LISTEN_HINTS.get(error.errno, "Give an address of this machine with --host."),
        ) from error
    return listener


def _make_server(settings: Settings) -> uvicorn.Server:
    """Return the HTTP server of the application."""
    # Imported here, because the import takes a second and other commands do not need it.
    import uvicorn

    from app.main import create_app
    from app.web.http_protocol import BoundedHttpProtocol, connection_limit

    BoundedHttpProtocol.max_connections = connection_limit()
    app = create_app(settings)

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            """Start, and exclude what is loaded now from garbage collections.

            A full collection goes through all modules and schemas otherwise, and stops the event
            loop for 0.2 s each time.
            """
            await super().startup(sockets)
            gc.collect()
            gc.freeze()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """End long polls and streams first, because the server waits for both."""
            await app.state.watcher.close()
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            app,
            http=BoundedHttpProtocol,
            backlog=BACKLOG,
            # No limit_concurrency: above it, even /healthz returns a bare 503, so that a busy
            # service would be restarted. rate_* and open_answers limit requests per API key.
            log_config=None,
            access_log=False,  # the application logs requests with their ids
            server_header=False,
            proxy_headers=False,  # see PLAUDIT_TRUSTED_PROXIES
            timeout_graceful_shutdown=CLOSE_SECONDS,
        )
    )


def _run(settings: Settings, listener: socket.socket, supervisor: WorkerSupervisor | None) -> None:
    """Serve until SIGTERM or SIGINT. A second signal kills the worker without a checkpoint."""
    sys.setswitchinterval(SWITCH_SECONDS)
    server = _make_server(settings)
    signals = 0

    def on_signal(*_: object) -> None:
        # uvicorn handles the signals while it runs, and raises them again when it has stopped.
        nonlocal signals
        signals += 1
        server.should_exit = True
        if signals > 1 and supervisor is not None:
            supervisor.hurry()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    if supervisor is not None:
        supervisor.start()
    try:
        server.run(sockets=[listener])
    finally:
        if supervisor is not None:
            supervisor.stop()
    if not server.started:
        raise CommandError(
            "The API did not start.", ExitCode.FAILED, "The log above has the reason."
        )


def _replace_process(program: str, *arguments: str) -> NoReturn:
    """Replace this process with a program, so that signals reach the program directly."""
    os.execv(program, [program, *arguments])  # noqa: S606
