"""``plaudit keys``: manage API keys directly in the database, for operators.

See ``app.cli.database`` about the imports inside the commands.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer

from app.api_keys.defaults import DEFAULT_TENANT
from app.auth.scopes import Scope
from app.cli.database import open_database
from app.cli.exit_codes import CommandError, ExitCode
from app.cli.output import notes, plain, print_json, print_table
from app.core.errors import NotFoundError
from app.web.pagination import rfc3339

commands = typer.Typer(
    help="Manage API keys directly in the database, for operators.", no_args_is_help=True
)

Tenant = Annotated[
    str, typer.Option(help="Tenant of the key. Tenants cannot see each other's data.")
]
MAX_DAYS = 36_500
_DAY_MS = 86_400_000
_PAGE = 100


@commands.command()
def create(
    name: Annotated[str, typer.Option(help="Display name.")] = "made by plaudit keys",
    scopes: Annotated[
        list[Scope] | None,
        typer.Option("--scope", help="Scope of the key; default: admin. Repeatable."),
    ] = None,
    tenant: Tenant = DEFAULT_TENANT,
    expires_days: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_DAYS, help="Days until the key expires; default: never."),
    ] = None,
) -> None:
    """Create a key. The key is printed on stdout and cannot be shown again."""
    from app.api_keys import service
    from app.audit import log as audit_log
    from app.core.database import transaction

    now_ms = time.time_ns() // 1_000_000
    expires_at = now_ms + expires_days * _DAY_MS if expires_days else None
    with open_database() as engine, transaction(engine) as session:
        made = service.create(session, tenant, name, scopes or [Scope.ADMIN], expires_at)
        audit_log.record(session, audit_log.Actor(tenant), "api_key.create", made.row.id)
    notes.print(plain(f"{made.row.id} of tenant {tenant}: {', '.join(made.row.scopes)}"))
    typer.echo(made.token)


@commands.command("list")
def list_keys(
    tenant: Tenant = DEFAULT_TENANT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the keys of a tenant that are not revoked, newest first."""
    from app.api_keys import service
    from app.core.database import transaction

    found: list[dict[str, object]] = []
    after: str | None = None
    with open_database() as engine, transaction(engine) as session:
        while True:
            rows = service.list_page(session, tenant, _PAGE, after)
            for row in rows[:_PAGE]:
                found.append(
                    {
                        "id": row.id,
                        "name": row.name,
                        "scopes": row.scopes,
                        "created_at": rfc3339(row.created_at),
                        "expires_at": rfc3339(row.expires_at) if row.expires_at else None,
                        "last_used_at": rfc3339(row.last_used_at) if row.last_used_at else None,
                    }
                )
            if len(rows) <= _PAGE:
                break
            after = rows[_PAGE - 1].id
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "name", "scopes", "created", "expires", "last used"),
        ([", ".join(v) if isinstance(v, list) else v for v in key.values()] for key in found),
    )


@commands.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Key id (key_…).")],
    tenant: Tenant = DEFAULT_TENANT,
) -> None:
    """Revoke a key. Running services notice within half a minute."""
    from app.api_keys import service
    from app.audit import log as audit_log
    from app.core.database import transaction

    with open_database() as engine:
        try:
            with transaction(engine) as session:
                service.revoke(session, tenant, key_id)
                audit_log.record(session, audit_log.Actor(tenant), "api_key.revoke", key_id)
        except NotFoundError as error:
            raise CommandError(error.detail, ExitCode.FAILED) from error
    notes.print(plain(f"{key_id} is revoked."))
