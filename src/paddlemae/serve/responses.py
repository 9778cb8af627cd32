"""Responses with the headers that protect a page; errors are one line of JSON without paths or frames."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

HTML = "text/html; charset=utf-8"
JSON = "application/json"
BINARY = "application/octet-stream"

# what a page's own `meta` cannot say, and for all else that nothing is loaded
PAGE_POLICY = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; connect-src 'self'"
DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
PROTECTION = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Response(NamedTuple):
    """Hold the HTTP response to a request."""

    status: HTTPStatus
    body: bytes
    content_type: str
    extra: Mapping[str, str] = {}

    @property
    def line(self) -> str:
        return f"{self.status.value} {self.status.phrase}"

    @property
    def headers(self) -> list[tuple[str, str]]:
        policy = PAGE_POLICY if self.content_type == HTML else DATA_POLICY
        length = {"Content-Length": str(len(self.body))} if self.status != HTTPStatus.NO_CONTENT else {}
        kind = {"Content-Type": self.content_type} if length else {}
        return list({**kind, **length, **PROTECTION, "Content-Security-Policy": policy, **self.extra}.items())


class Refused(Exception):
    """A request that gets an error as its response."""

    def __init__(self, status: HTTPStatus, text: str, **extra: str):
        super().__init__(text)
        self.response = as_json(
            {"error": text}, status, {name.replace("_", "-"): value for name, value in extra.items()}
        )


def as_json(content: Any, status: HTTPStatus = HTTPStatus.OK, extra: Mapping[str, str] | None = None) -> Response:
    """Return a response of JSON."""
    return Response(status, json.dumps(content).encode(), JSON, extra or {})


def not_found() -> Refused:
    """Return what everything gets that has no token, the wrong one, or another path: it tells nothing."""
    return Refused(HTTPStatus.NOT_FOUND, "not found")


def too_many(seconds: float) -> Refused:
    """Return what an address gets that asks too often."""
    wait = str(max(1, math.ceil(seconds)))
    return Refused(HTTPStatus.TOO_MANY_REQUESTS, f"too many requests; ask again in {wait} s", Retry_After=wait)


def queue_full(seconds: float) -> Refused:
    """Return what a request gets that finds no room in the queue."""
    wait = str(max(1, math.ceil(seconds)))
    text = f"the model has too much to do; try again in about {wait} s"
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, text, Retry_After=wait)
