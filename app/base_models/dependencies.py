"""Dependencies of endpoints that look up base models."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from app.base_models.catalogue import Catalogue


async def get_catalogue(request: Request) -> Catalogue:
    """Return the catalogue of the service."""
    catalogue: Catalogue = request.app.state.catalogue
    return catalogue


CatalogueDep = Annotated[Catalogue, Depends(get_catalogue)]
