"""Paginated lists."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import httpx

from plaudit._async.transport import AsyncTransport
from plaudit._calls import Call, document, parse_item, unexpected
from plaudit._model import Model

Item = TypeVar("Item", bound=Model)
PAGE_SIZE = 100


@dataclass(frozen=True)
class AsyncPage(Generic[Item]):
    """One page of a list."""

    data: list[Item]
    next: str | None
    """The value of ``after`` for the next page; None on the last page."""


class AsyncItems(Generic[Item]):
    """A paginated list. Iterating over it requests one page after another as needed."""

    def __init__(
        self,
        transport: AsyncTransport,
        call: Call,
        model: type[Item],
        adopt: Callable[[Item], Item] = lambda item: item,
    ) -> None:
        self._transport = transport
        self._call = call
        self._model = model
        self._adopt = adopt

    async def page(self) -> AsyncPage[Item]:
        """Return the first page: up to ``page_size`` items."""
        return await self._page(self._call)

    async def __aiter__(self) -> AsyncIterator[Item]:
        page: AsyncPage[Item] | None = await self.page()
        while page is not None:
            for item in page.data:
                yield item
            page = await self.following(page)

    async def following(self, page: AsyncPage[Item]) -> AsyncPage[Item] | None:
        """Return the page that follows ``page``; None after the last page."""
        if page.next is None:
            return None
        return await self._page(replace(self._call, query={**self._call.query, "after": page.next}))

    async def _page(self, call: Call) -> AsyncPage[Item]:
        response = await self._transport.send(call)
        found = document(response)
        data, following = _list(found, response)
        items = [self._adopt(parse_item(self._model, item, response)) for item in data]
        return AsyncPage(items, following)


def _list(found: Any, response: httpx.Response) -> tuple[list[Any], str | None]:
    try:
        return list(found["data"]), found["next"] if found["has_more"] else None
    except (KeyError, TypeError) as error:
        raise unexpected(response, "it is not a list") from error
