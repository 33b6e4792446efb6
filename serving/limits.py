"""Requests that are too large are refused before they are held in memory."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import error_response


class BodyLimit:
    """ASGI middleware: a body above `limit` bytes is answered by 413, whether or not its length is announced.

    Args:
        app: The app behind it.
        limit: Bytes.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        whole = None if announced.isdigit() and int(announced) > self.limit else await self._read(receive)
        if whole is None:
            message = f"The request has more than {self.limit} bytes, which is the limit: shorten it."
            await error_response(413, message)(scope, receive, send)
        else:
            await self.app(scope, again(whole, receive), send)

    async def _read(self, receive: Receive) -> Message | None:
        """The whole body in one message; None if it is too large."""
        body, message = b"", {"more_body": True}
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                return message
            body += message.get("body", b"")
            if len(body) > self.limit:
                return None
        return {"type": "http.request", "body": body, "more_body": False}


def again(first: Message, receive: Receive) -> Receive:
    """A `receive` that gives a message that was read already, then goes on."""
    messages = [first]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed
