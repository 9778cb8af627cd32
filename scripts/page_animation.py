"""Write docs/images/page.webp: a brush on the page of small photos, and what the model makes of it.

python scripts/page_animation.py    # needs Chromium and build/pages, which scripts/site_pages.py writes
"""

from __future__ import annotations

import io
import itertools
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "build" / "pages" / "cifar10-page.html"
PICTURE = ROOT / "docs" / "images" / "page.webp"
SIZE = {"width": 1300, "height": 760}
STROKES = [  # points in shares of the picture
    [(0.10, 0.12), (0.30, 0.12), (0.55, 0.18), (0.80, 0.30)],
    [(0.85, 0.45), (0.70, 0.55), (0.45, 0.55), (0.20, 0.50)],
    [(0.15, 0.70), (0.35, 0.80), (0.60, 0.75), (0.85, 0.80)],
]
STEPS = 4  # frames between two points
MILLISECONDS, LAST_MILLISECONDS = 120, 2500


def main() -> None:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    frames: list[Image.Image] = []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport=SIZE, color_scheme="light")
        page.goto(PAGE.as_uri())
        page.get_by_text("Computed in").first.wait_for()
        page.get_by_role("button", name="Clear").click()
        box = page.locator("#patches").bounding_box()
        area = {"x": 0, "y": 120, "width": SIZE["width"], "height": SIZE["height"] - 130}

        def shoot() -> None:
            page.wait_for_timeout(150)
            frames.append(Image.open(io.BytesIO(page.screenshot(clip=area))).convert("RGB"))

        shoot()
        for stroke in STROKES:
            places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
            page.mouse.move(*places[0])
            page.mouse.down()
            for (x0, y0), (x1, y1) in itertools.pairwise(places):
                for step in range(1, STEPS + 1):
                    page.mouse.move(x0 + (x1 - x0) * step / STEPS, y0 + (y1 - y0) * step / STEPS)
                    shoot()
            page.mouse.up()
        chromium.close()
    small = [frame.resize((900, round(900 * frame.height / frame.width)), Image.Resampling.LANCZOS) for frame in frames]
    times = [MILLISECONDS] * (len(small) - 1) + [LAST_MILLISECONDS]
    small[0].save(PICTURE, save_all=True, append_images=small[1:], duration=times, loop=0, quality=80, method=6)
    print(f"wrote {PICTURE}, {len(small)} frames, {PICTURE.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
