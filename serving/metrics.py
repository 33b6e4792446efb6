"""What Prometheus is told."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .engine import Engine

SECONDS = (0.1, 0.25, 0.5, 1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own.

    Args:
        engine: The engine whose queue and batch are shown.
    """

    def __init__(self, engine: Engine) -> None:
        self.registry = CollectorRegistry()
        own = {"registry": self.registry}
        self.requests = Counter(
            "clara_requests", "Chat requests, by the status of the response.", ["status"], **own
        )
        self.prompt_tokens = Counter("clara_prompt_tokens", "Prompt tokens read, memories included.", **own)
        self.tokens = Counter("clara_generated_tokens", "Tokens written.", **own)
        self.cancelled = Counter("clara_cancelled", "Requests whose client went away.", **own)
        self.latency = Histogram("clara_request_seconds", "Request to whole answer.", buckets=SECONDS, **own)
        self.first = Histogram("clara_first_token_seconds", "Request to first text.", buckets=SECONDS, **own)
        Gauge("clara_waiting", "Questions in the queue.", **own).set_function(lambda: engine.waiting)
        Gauge("clara_running", "Answers being written.", **own).set_function(lambda: engine.running)
        Gauge("clara_steps", "Decoding steps since the start.", **own).set_function(lambda: engine.steps)
        rows = Gauge("clara_row_steps", "Rows of all decoding steps; by clara_steps, the mean batch.", **own)
        rows.set_function(lambda: engine.row_steps)
        ProcessCollector(registry=self.registry)

    def page(self) -> bytes:
        """The page in Prometheus' text format."""
        return generate_latest(self.registry)


class CountStatus:
    """ASGI middleware: counts the responses of one path by their status.

    Args:
        app: The app behind it.
        counter: With one label, the status.
        path: The path.
    """

    def __init__(self, app: ASGIApp, counter: Counter, path: str) -> None:
        self.app, self.counter, self.path = app, counter, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on and notes how it was answered."""

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.counter.labels(str(message["status"])).inc()
            await send(message)

        counted = scope["type"] == "http" and scope["path"] == self.path
        await self.app(scope, receive, noted if counted else send)
