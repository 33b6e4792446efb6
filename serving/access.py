"""Who may ask: a key, if the server has one, and the names under which it may be addressed."""

import hmac
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import error_response

OPEN = ("/health", "/health/ready", "/health/live")


class Access:
    """ASGI middleware: 401 without the key, 400 for another host name than those that are allowed.

    A page in a browser can make another name point at this machine and send requests under it; the check of
    the name refuses these.

    Args:
        app: The app behind it.
        key: What `Authorization: Bearer KEY` must say; None lets everybody ask. `OPEN` needs no key.
        hosts: Allowed names, without ports; none allows all.
    """

    def __init__(self, app: ASGIApp, key: str | None = None, hosts: Sequence[str] = ()) -> None:
        self.app, self.key, self.hosts = app, key, tuple(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            host = headers.get(b"host", b"").decode("latin-1")
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if self.hosts and name not in self.hosts:
                message = f"The host {ascii(name)[:100]} is not served here: use one of {list(self.hosts)}."
                await error_response(400, message, code="unknown_host")(scope, receive, send)
                return
            given = headers.get(b"authorization", b"")
            if self.key and scope["path"] not in OPEN and not self._fits(given):
                message = "A key is needed: send `Authorization: Bearer KEY` with the server's CLARA_API_KEY."
                await error_response(401, message, code="invalid_api_key")(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _fits(self, given: bytes) -> bool:
        kind, _, key = given.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(key.strip(), self.key.encode())
