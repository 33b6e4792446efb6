"""Errors as OpenAI's clients expect them: `{"error": {"message", "type", "param", "code"}}`."""

import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from .neutral import NEUTRAL, WAY_OUT

logger = logging.getLogger(__name__)

TYPES = {401: "authentication_error", 429: "rate_limit_error", 500: "server_error", 503: "server_error"}
CODES = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large", 422: "invalid_request"}


class ApiError(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        message: For the caller; names the field, the value, the rule and the way out.
        param: The field.
        code: A word for programs.
        headers: More headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.headers = status, param, headers
        self.code = code or CODES.get(status)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict:
    """The JSON body of an error."""
    kind = TYPES.get(status, "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code or CODES.get(status)}}


def error_response(
    status: int, message: str, param: str | None = None, code: str | None = None, headers: Any = None
) -> Response:
    """An error as a response in ASCII, so that no text of a request can break it."""
    body = json.dumps(error_body(status, message, param, code)).encode("ascii")
    return Response(body, status, headers, media_type="application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Gives every error of an app the same form; what the server did wrong is logged, not told."""

    @app.exception_handler(ApiError)
    async def own(request: Request, error: ApiError) -> Response:
        return error_response(error.status, str(error), error.param, error.code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        way_out = f"; {WAY_OUT}." if place.partition(".")[0] in NEUTRAL else ""
        return error_response(422, f"{place or 'body'}: {first['msg']}{way_out}", place or None)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return error_response(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        logger.error("a request failed", exc_info=error)
        return error_response(500, "The server failed on this request; its log says why.")
