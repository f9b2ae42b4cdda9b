"""Checks every request: its token, its host, the page that it comes from, and its size.

A page on the internet can make a browser send requests to this machine, even under a domain name of its own.
But it does not know the token, and its ``Origin`` and ``Host`` are not ours.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from latentseg.serve.problems import problem
from latentseg.serve.settings import ServeOptions

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Receive, Send], Awaitable[None]]

OPEN = ("/", "/index.html", "/favicon.ico", "/api/health", "/monai/auth/", "/monai/auth/token")
OPEN_BELOW = ("/assets/",)
IN_PATH = "/t/"  # for tools that send no headers of their own: /t/TOKEN/monai
UPLOADS = ("/api/scans/upload", "/monai/datastore", "/monai/session")
LONGEST_ADDRESS = 8192
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)


class TooLarge(Exception):  # noqa: N818 - it never leaves this file
    """A body went over its limit."""


class Guard:
    """Middleware that refuses what is not from the page, a tool with the token, or too large."""

    def __init__(self, app: Application, options: ServeOptions) -> None:
        self.app, self.options = app, options

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer why not."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        scope = self._without_token(scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, _with_headers(send))
            return
        counted = Counted(receive, _with_headers(send), self._most_bytes(scope["path"]))
        try:
            await self.app(scope, counted.receive, counted.send)
        except TooLarge:
            if not counted.answered:
                await self._too_large()(scope, receive, _with_headers(send))

    def _refusal(self, scope: Any, headers: dict[bytes, bytes]) -> Any:
        path = scope["path"]
        host, origin = headers.get(b"host", b""), headers.get(b"origin")
        if host.decode("latin-1").lower() not in self.options.hosts:
            return problem(403, "the request is for another host", fix="open the printed address")
        pages = {f"http://{host}" for host in self.options.hosts} | set(self.options.origins)
        if origin is not None and origin.decode("latin-1") not in pages:
            return problem(403, "the request comes from another page", fix="open the printed address")
        if len(path) + len(scope.get("query_string", b"")) > LONGEST_ADDRESS:
            return problem(413, "the address is too long", fix="send less")
        is_open = path in OPEN or path.startswith(OPEN_BELOW) or scope.get("latentseg.known")
        if not is_open and not self._knows(headers):
            return problem(401, "the token is missing or wrong", fix="open the address that was printed")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._most_bytes(path):
            return self._too_large()
        return None

    def _without_token(self, scope: Any) -> Any:
        """A request whose address begins with the token, as one that carries it; others as they are."""
        if not scope["path"].startswith(IN_PATH):
            return scope
        given, slash, rest = scope["path"].removeprefix(IN_PATH).partition("/")
        if not hmac.compare_digest(given.encode(), self.options.token.encode()):
            return scope
        path = slash + rest
        return {**scope, "path": path, "raw_path": path.encode(), "latentseg.known": True}

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        right = self.options.token.encode()
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), right)

    def _most_bytes(self, path: str) -> int:
        limits = self.options.limits
        return limits.upload_bytes if path.startswith(UPLOADS) else limits.body_bytes

    def _too_large(self) -> Any:
        return problem(413, "the body is too large", fix="raise the limit of latentseg serve")


class Counted:
    """The ends of one request, with its bytes counted."""

    def __init__(self, receive: Receive, send: Send, most: int) -> None:
        self._receive, self._send, self.left, self.answered = receive, send, most, False

    async def receive(self) -> Message:
        """The next piece of the body.

        Raises:
            TooLarge: It goes over the limit.
        """
        message = await self._receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise TooLarge
        return message

    async def send(self, message: Message) -> None:
        """Send a piece of the answer."""
        self.answered = True
        await self._send(message)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await send(message)

    return sending
