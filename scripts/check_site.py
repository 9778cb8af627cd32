"""Check that a built site is self-contained: it loads nothing from a network, and no local link is broken.

python scripts/check_site.py FOLDER

Links to other sites are for people to follow, and are not checked.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LINKED = {"a", "area"}  # what leads away when it is clicked; everything else is loaded with the page
NO_ASSETS = {"canonical", "next", "prev", "author", "search", "index"}  # <link rel=...> that loads nothing
CSS_LOADS = re.compile(r"""@import\s+["']?([^"';)\s]+)|url\(\s*(?:"([^"]*)"|'([^']*)'|([^)"'\s]+))\s*\)""")


class Page(HTMLParser):
    """The links, loaded files and anchors of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: list[str] = []
        self.assets: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        places = [given[name] for name in ("href", "src", "data", "poster") if given.get(name)]
        places += [part.split()[0] for part in given.get("srcset", "").split(",") if part.strip()]
        leads = tag in LINKED or (tag == "link" and set(given.get("rel", "").split()) & NO_ASSETS)
        (self.links if leads else self.assets).extend(place for place in places if not place.startswith("data:"))
        self.assets += loads(given.get("style", ""))


def loads(css: str) -> list[str]:
    """Return what a style sheet or a style attribute loads, except embedded data."""
    places = ("".join(found) for found in CSS_LOADS.findall(css))
    return [place for place in places if not place.startswith("data:")]


def faults(site: Path) -> Iterator[str]:
    """Yield one line for each fault."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site}: no page"
    for path, page in pages.items():
        yield from (f"{path.name}: loads {place}" for place in page.assets if not is_local(place))
        for place in filter(is_local, page.links + page.assets):
            target, anchor = located(path, place)
            if not target.exists():
                yield f"{path.name}: {place} is not there"
            elif anchor and target in pages and anchor not in pages[target].anchors:
                yield f"{path.name}: {place} leads to no heading"
    for path in sorted(site.rglob("*.css")):
        for place in loads(path.read_text(encoding="utf-8")):
            if not is_local(place):
                yield f"{path.name}: loads {place}"
            elif not located(path, place)[0].exists():
                yield f"{path.name}: {place} is not there"


def is_local(place: str) -> bool:
    """Return whether a link leads to the site itself."""
    parts = urlsplit(place)
    return not (parts.scheme or parts.netloc)


def located(path: Path, place: str) -> tuple[Path, str]:
    """Return (file, anchor) of a local link of a page."""
    parts = urlsplit(place)
    return (path.parent / unquote(parts.path)).resolve() if parts.path else path, unquote(parts.fragment)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = list(faults(Path(sys.argv[1])))
    print("\n".join(found) or f"{sys.argv[1]}: whole", file=sys.stderr if found else sys.stdout)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
