"""`paddlemae serve`: parse, import lazily, dispatch."""

from __future__ import annotations

from typing import Annotated

import typer

from paddlemae.cli.load_paddle import load_paddle
from paddlemae.cli.options import Trust


def serve(
    run: Annotated[str, typer.Argument(help="A run folder, or a file of weights.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Sample images: files, folders ... or 'digits'; default: some of the run's data."),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; the default lets in this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 is any free one.")] = 0,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Maximum number of sample images.")] = 12,
    title: Annotated[str | None, typer.Option("--title", help="Title of the page; default: the run's name.")] = None,
    trust: Trust = False,
) -> None:
    """Serve the page of `paddlemae page` with the model in this process, until Ctrl-C.

    For models that are too large for a page. The printed address holds a secret token; without it nothing is served.

    Examples:

    `paddlemae serve runs/photos photos/ --open`

    `paddlemae serve runs/photos a.jpg b.jpg --port 8080 --title "Our photos"`
    """
    load_paddle()
    from paddlemae.tasks.serve import Address
    from paddlemae.tasks.serve import serve as serve_page

    serve_page(run, images or [], Address(host, port, open_browser), limit=limit, title=title, trust=trust)
