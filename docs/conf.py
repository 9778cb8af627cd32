"""How the pages of this folder become a site (`make docs`): plain Markdown in, HTML that needs no network out.

A link to a file outside of docs/ is relative, as GitHub wants it; on the site the file is a download.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
subprocess.run([sys.executable, ROOT / "scripts" / "site_pages.py", ROOT / "build" / "pages"], check=True)

project = "PaddleMAE"
copyright = "The PaddleMAE authors. Apache-2.0"
root_doc = "index"
extensions = ["myst_parser"]  # reads Markdown by the rules that GitHub has
exclude_patterns = ["results"]
myst_heading_anchors = (
    4  # GitHub's names; a link to one that isn't there is a warning, which `make docs` takes as an error
)
highlight_language = "text"  # of blocks that name none

html_theme = "furo"  # brings its scripts and styles along, and asks for no font
html_title = "PaddleMAE"
html_extra_path = ["../build/pages"]  # pages of models, which page.md embeds
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_copy_source = False
html_use_index = False

# The order of reading. Not in index.md, where GitHub would show it as a block of code.
PAGES = {
    "Start": ["first-hour", "data", "data-faults", "reading-fast", "segmentation-data", "glossary"],
    "Train": ["auto", "plan", "recipes", "settings", "finetune", "segment", "runs", "processes"],
    "Look": ["reconstruct", "evaluate", "features", "predict", "segment-predict", "page", "serve"],
    "Use elsewhere": ["weights", "weights-safety", "export", "python"],
    "Design": ["design"],
    "Evidence": [
        "RESULTS",
        "evaluate-measured",
        "parity",
        "speed",
        "kernels-measured",
        "data-measured",
        "weights-measured",
        "export-measured",
        "processes-measured",
        "soak",
        "log",
    ],
}


def append_contents(app, name: str, source: list[str]) -> None:
    """Append the table of contents, which Sphinx turns into the sidebar, to the first page."""
    if name == root_doc:
        for caption, pages in PAGES.items():
            source[0] += "\n```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(pages) + "\n```\n"


def setup(app) -> None:
    app.connect("source-read", append_contents)
