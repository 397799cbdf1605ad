"""The actor of a request, for the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.audit.log import Actor
from app.auth.key_ring import Principal


async def get_actor(request: Request) -> Actor:
    """Return the request's key, id and client address (see PLAUDIT_TRUSTED_PROXIES).

    The address is the client's own if uvicorn trusts the proxy in between. An endpoint must
    declare this dependency after the one that authenticates the request.
    """
    principal: Principal = request.scope["principal"]
    return Actor(
        tenant_id=principal.tenant_id,
        key_id=principal.key_id,
        request_id=request.scope.get("request_id"),
        client=request.client.host if request.client else None,
    )


ActorDep = Annotated[Actor, Depends(get_actor)]
