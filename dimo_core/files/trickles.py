"""Answers over http that come so slowly that they would never end: ``patient``."""

import asyncio
import time
from collections.abc import Awaitable
from functools import cache
from typing import Any

from aiohttp import ClientResponse

from dimo_core import limits


@cache
def patient(silence: float) -> type[ClientResponse]:
    """Answers to a client of aiohttp that are given up when they trickle.

    aiohttp's own limits begin anew with every byte.

    Args:
        silence: Seconds in which the head of an answer must be there, and of waiting for its body in which
            ``limits.TRICKLE`` bytes each must come. The time between two reads does not count.
    """

    class Answer(ClientResponse):
        async def start(self, connection: Any) -> ClientResponse:
            try:
                async with asyncio.timeout(silence):
                    await super().start(connection)
            except TimeoutError as error:
                raise ConnectionError(f"there was no answer within {silence:g} s") from error
            self.content = _Body(self.content, silence)  # type: ignore[assignment]
            return self

    return Answer


class _Body:
    """A stream of aiohttp: what is read of it is counted, and the time that this takes."""

    def __init__(self, stream: Any, silence: float) -> None:
        self._stream, self._silence = stream, silence
        self._waited, self._came = 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def read(self, n: int = -1) -> bytes:
        if n >= 0:
            return await self._counted(self._stream.read(n))
        parts = []
        while part := await self.readany():
            parts.append(part)
        return b"".join(parts)

    async def readany(self) -> bytes:
        return await self._counted(self._stream.readany())

    async def _counted(self, reading: Awaitable[bytes]) -> bytes:
        began = time.monotonic()
        data = await reading
        self._waited += time.monotonic() - began
        self._came += len(data)
        if data and self._waited > self._silence:
            if self._came < limits.TRICKLE * self._waited:
                raise ConnectionError(
                    f"{self._came:,} bytes came in {self._waited:.0f} s; {limits.TRICKLE:,} a second is the "
                    "least"
                )
            self._waited, self._came = 0.0, 0
        return data
