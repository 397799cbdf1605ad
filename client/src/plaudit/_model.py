"""The base of every model of an answer."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """An answer of the service. Fields that this client does not know yet are kept as they are."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
