"""Places for uploads are shared between tenants."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from app.core.errors import RateLimitedError, UnavailableError
from app.datasets.upload_places import UploadPlaces


async def take(places: UploadPlaces, stack: AsyncExitStack, tenant: str) -> int:
    """Take places until one is refused; return their number."""
    taken = 0
    while True:
        try:
            await stack.enter_async_context(places.place(tenant))
        except RateLimitedError:
            return taken
        taken += 1


def test_tenant_gets_a_place_only_if_more_are_free_than_it_has() -> None:
    async def main() -> None:
        places = UploadPlaces(8, wait_seconds=0)
        async with AsyncExitStack() as stack:
            assert [await take(places, stack, tenant) for tenant in "abc"] == [4, 2, 1]
            await stack.enter_async_context(places.place("d"))
            for tenant in "ae":  # no place is left for any tenant
                with pytest.raises(UnavailableError):
                    await stack.enter_async_context(places.place(tenant))
        async with AsyncExitStack() as stack:  # all of them are free again
            assert await take(places, stack, "e") == 4

    asyncio.run(main())


def test_upload_waits_for_a_place() -> None:
    async def main() -> None:
        places = UploadPlaces(1, wait_seconds=60)
        order = []

        async def upload(tenant: str) -> None:
            async with places.place(tenant):
                order.append(tenant)
                await asyncio.sleep(0)

        await asyncio.gather(*(upload(tenant) for tenant in "abab"))
        assert sorted(order) == sorted("abab")

    asyncio.run(main())
