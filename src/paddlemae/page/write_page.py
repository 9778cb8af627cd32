"""Assemble the page: skeleton, style, scripts and data in one self-contained file.

Names of images and classes come from strangers. They reach the page as JSON only, whose scripts set them as text; the
page's own policy (CSP) runs no script but ours and fetches nothing.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

ASSETS = Path(__file__).with_name("assets")
ENGINE = ("simd.js", "arithmetic.js", "heads.js", "network.js", "engines.js")  # also the source of the worker
LEVEL = 9  # of the compression, which takes a seventh off weights of 16 bits
SERVER_ENGINE = "server_engine.js"
APP = (
    "elements.js",
    "masks.js",
    "pictures.js",
    "images.js",
    "gallery.js",
    "camera.js",
    "stage.js",
    "attention.js",
    "classes.js",
    "neighbours.js",
    "runs.js",
    "app.js",
)


def render(header: Mapping[str, Any], content: bytes = b"") -> str:
    """Return the page as HTML.

    Args:
        header: from `bundle`; with an endpoint the model runs in a server, and `content` has the samples only.
        content: the bytes that the header describes.
    """
    served = header["endpoint"] is not None
    engine, app = _scripts(ENGINE), _scripts((SERVER_ENGINE, *APP) if served else APP)
    return _template().render(
        title=header["title"],
        policy=policy((engine, app), served=served),
        style=Markup(_asset("page.css")),
        engine=Markup(engine),
        app=Markup(app),
        header=Markup(as_json(header)),
        content=Markup(base64.b64encode(zlib.compress(content, LEVEL)).decode()),
    )


def policy(scripts: tuple[str, ...], *, served: bool) -> str:
    """Return the page's Content-Security-Policy: our scripts, a worker made from them, pictures made here."""
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    hashes = " ".join(f"'sha256-{digest}'" for digest in digests)
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {hashes} 'wasm-unsafe-eval'",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "media-src blob:",
            "worker-src blob:",
            "connect-src 'self'" if served else "connect-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def as_json(value: Any) -> str:
    """Return JSON that can stand in a script element: no character in it ends the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _scripts(names: tuple[str, ...]) -> str:
    return "\n".join(map(_asset, names))


@functools.cache
def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


@functools.cache
def _template() -> Template:
    loader = FileSystemLoader(ASSETS)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("page.html.jinja")
