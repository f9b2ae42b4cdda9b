"""Events of a project, which every open page receives as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from threading import Lock
from typing import Any

MOST_WAITING = 500  # events of a page that does not read
PULSE = 15.0  # seconds between signs of life


class Events:
    """Passes events from any thread to all who listen."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[str | None]]] = []

    def tell(self, kind: str, content: Any) -> None:
        """Send an event."""
        text = f"event: {kind}\ndata: {json.dumps(content)}\n\n"
        with self._lock:
            for loop, queue in self._listeners:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_put, queue, text)

    def close(self) -> None:
        """End all streams."""
        with self._lock:
            for loop, queue in self._listeners:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_put, queue, None)

    async def stream(self) -> AsyncIterator[str]:
        """Events from now on, until :meth:`close`."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(MOST_WAITING)
        entry = (asyncio.get_running_loop(), queue)
        with self._lock:
            self._listeners.append(entry)
        try:
            yield "event: hello\ndata: {}\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), PULSE)
                except TimeoutError:
                    text = ": here\n\n"
                if text is None:
                    return
                yield text
        finally:
            with self._lock:
                self._listeners.remove(entry)


def _put(queue: asyncio.Queue[str | None], text: str | None) -> None:
    """Drop the oldest event of a page that does not read; it asks for the whole state when it is back."""
    while queue.full():
        queue.get_nowait()
    queue.put_nowait(text)
