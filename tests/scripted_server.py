"""An OpenAI-compatible server in front of the scripted teacher, for the tests.

It can be slow on purpose and misbehave on purpose, and it counts what it was asked and what it answered.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple

from clara.data.synthesis.scripted_teacher import ScriptedTeacher
from clara.data.synthesis.teacher import Request


class Fault(NamedTuple):
    """What the server sends instead of an answer.

    Attributes:
        status: the HTTP status.
        body: the body, or None for the answer that it would have given.
        headers: header lines, each ended by CR LF.
        delay: seconds before it is sent.
    """

    status: int
    body: str | None = "{}"
    headers: str = ""
    delay: float = 0.0


class ScriptedServer:
    """Serves `/v1/chat/completions` and `/v1/models` from a thread, while its `with` block runs.

    Args:
        delay: seconds before each answer.
        fault: gives the fault of a call by its number (from 1), or None for an answer.
        port: the port; 0 takes a free one.

    Attributes:
        url: the address to give to a client.
        asked: calls so far.
        answered: answers by request body; more than one means that a call was repeated.
    """

    def __init__(
        self, delay: float = 0.0, fault: Callable[[int], Fault | None] | None = None, port: int = 0
    ) -> None:
        self.delay, self.fault, self.port = delay, fault, port
        self.asked, self.answered = 0, Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> ScriptedServer:
        start = asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self._server = self._loop.run_until_complete(start)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the requests of one connection until the client closes it."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = head.partition("content-length:")[2].partition("\r\n")[0]
                body = await reader.readexactly(int(length or 0))
                writer.write(await (self._models() if head.startswith("get") else self._complete(body)))
                await writer.drain()
        except (asyncio.IncompleteReadError, asyncio.CancelledError, ConnectionError):
            return
        finally:
            writer.close()

    async def _models(self) -> bytes:
        return _response(200, json.dumps({"object": "list", "data": [{"id": "scripted", "object": "model"}]}))

    async def _complete(self, body: bytes) -> bytes:
        self.asked += 1
        fault = (self.fault(self.asked) if self.fault else None) or Fault(200, None, "", self.delay)
        await asyncio.sleep(fault.delay)
        if fault.body is not None:
            return _response(fault.status, fault.body, fault.headers)
        self.answered[body] += 1
        request = json.loads(body)
        form = request.get("response_format", {}).get("json_schema", {}).get("name", "")
        reply = await ScriptedTeacher().complete(Request(tuple(request["messages"]), schema_name=form))
        return _response(fault.status, completion(reply.text or "yes"), fault.headers)


def completion(text: str | None, finish_reason: str = "stop", refusal: str | None = None) -> str:
    """Returns the body of a chat completion."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    body = {
        "id": "scripted",
        "object": "chat.completion",
        "created": 0,
        "model": "scripted",
        "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12},
    }
    return json.dumps(body)


def _response(status: int, body: str, headers: str = "") -> bytes:
    data = body.encode()
    kind = "content-type: application/json\r\n"
    head = f"HTTP/1.1 {status} -\r\n{kind}{headers}content-length: {len(data)}\r\n\r\n"
    return head.encode() + data
