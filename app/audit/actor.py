"""The actor of a request, for the audit log."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.audit.log import Actor
from app.auth.key_ring import Principal


async def get_actor(request: Request) -> Actor:
    """Return the API key, the id and the client address of a request.

    Behind a proxy, PLAUDIT_TRUSTED_PROXIES decides whether the address is the client's own. An
    endpoint must declare this dependency after the one that authenticates the request.
    """
    principal: Principal = request.scope["principal"]
    return Actor(
        tenant_id=principal.tenant_id,
        key_id=principal.key_id,
        request_id=request.scope.get("request_id"),
        client=request.client.host if request.client else None,
    )


ActorDep = Annotated[Actor, Depends(get_actor)]
