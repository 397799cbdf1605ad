"""Who acts in a request, for the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.audit.trail import Actor
from app.dependencies import get_principal
from app.security import Principal


async def get_actor(
    request: Request, principal: Annotated[Principal, Depends(get_principal)]
) -> Actor:
    """The request's key, id and address (of the client, where uvicorn trusts the proxy)."""
    return Actor(
        tenant_id=principal.tenant_id,
        key_id=principal.key_id,
        request_id=request.scope.get("request_id"),
        client=request.client.host if request.client else None,
    )


ActorDep = Annotated[Actor, Depends(get_actor)]
