"""Check where a request comes from before anything of it is read: its token, host and origin."""

from __future__ import annotations

import hmac
import re
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

from paddlemae.serve.responses import BINARY, Refused, not_found

Environ = Mapping[str, Any]  # of WSGI
PORT = re.compile(r":[0-9]{1,5}\Z")
OWN_SITES = ("same-origin", "none")  # of Sec-Fetch-Site; none is an address that was typed


def check_token(path: str, token: str) -> str:
    """Return the rest of a path behind its token, beginning with a slash, or "" if there is no slash.

    Raises:
        Refused: no token, or a wrong one, compared in constant time.
    """
    _, _, path = path.partition("/")
    given, slash, rest = path.partition("/")
    if not hmac.compare_digest(given.encode("latin-1", "replace"), token.encode()):
        raise not_found()
    return slash + rest


def check_host(environ: Environ, hosts: Collection[str] | None) -> None:
    """Refuse requests that name another host, as a page does whose own name was pointed here (DNS rebinding).

    Args:
        hosts: the names in `Host` that are accepted, with any port, which may be forwarded; None accepts all.
    """
    if hosts is not None and PORT.sub("", environ.get("HTTP_HOST", "")).lower() not in hosts:
        raise not_found()


def check_origin(environ: Environ) -> None:
    """Refuse requests that change something and were sent by another site's page."""
    site, origin = environ.get("HTTP_SEC_FETCH_SITE"), environ.get("HTTP_ORIGIN")
    if site is not None and site not in OWN_SITES:
        raise Refused(HTTPStatus.FORBIDDEN, "requests of other sites are refused")
    if origin is not None and origin.lower() != f"http://{environ.get('HTTP_HOST', '').lower()}":
        raise Refused(HTTPStatus.FORBIDDEN, "requests of other sites are refused")


def check_body(environ: Environ, most_bytes: int) -> int:
    """Return the length of a request's body.

    Raises:
        Refused: no length, or one beyond `most_bytes`, or another type than `BINARY`.
    """
    if environ.get("CONTENT_TYPE") != BINARY:
        raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"the body must be {BINARY}")
    length = environ.get("CONTENT_LENGTH", "")
    if not length.isdigit():
        raise Refused(HTTPStatus.LENGTH_REQUIRED, "a body with a length is expected")
    if int(length) > most_bytes:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body has at most {most_bytes} bytes")
    return int(length)
