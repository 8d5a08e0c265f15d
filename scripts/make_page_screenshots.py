"""Take the screenshots of docs/without_installing.md: the page of ``hf-vbp ui``, on a desktop and on a phone.

    python scripts/make_page_screenshots.py [--model sample] [--data DATASET] [--output docs/images]

Needs Chromium and playwright (``pip install playwright``), and ``hf-vbp[ui]``.
"""

import argparse
import io
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

SIZES = {"page_desktop": (1120, 900, "light"), "page_phone": (390, 844, "dark")}
PATIENCE = 600_000
MOST_BYTES = 150_000


def serve() -> tuple[subprocess.Popen[str], str]:
    """Start the page; return its process and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "hf_vbp", "ui", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process, f"http://127.0.0.1:{port}/"


def show(page: Any, model: str, data: str | None) -> None:
    """Inspect a model, gather its statistics, and prune it."""
    page.locator("#model").locator("input, textarea").fill(model)
    page.locator("#inspect").click()
    page.locator("#inspected table").wait_for()
    if data is not None:
        page.locator("#kind-of-images").get_by_label("Data set on the Hub").check()
        page.locator("#data").locator("input, textarea").fill(data)
    page.locator("#gather").click()
    page.locator("#figures table").first.wait_for()
    page.locator("#sweep").click()
    page.locator("#progress").get_by_text("Curve: done.").wait_for()
    page.locator("#curve").locator("canvas, svg").first.wait_for()
    page.locator("#share").locator("input[type=range]").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    page.locator("#figures").get_by_text("Cost with 40 %").wait_for()
    # The bars move to their new widths.
    page.wait_for_timeout(1500)
    page.mouse.move(0, 0)


def take(address: str, model: str, data: str | None) -> dict[str, bytes]:
    """Return the screenshots as PNG files of at most 64 colors."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("Chromium is not installed. Install it with the packages of the system.")
    shots = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name, (width, height, scheme) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            show(page, model, data)
            # From the budget on: what no other tool shows.
            box = page.locator("#step-budget").bounding_box()
            page.set_viewport_size({"width": width, "height": int(box["height"]) + 40})
            page.locator("#step-budget").scroll_into_view_if_needed()
            page.add_style_tag(content="#status { position: static !important; }")
            shot = Image.open(io.BytesIO(page.locator("#step-budget").screenshot())).convert("RGB")
            stream = io.BytesIO()
            shot.quantize(64).save(stream, "PNG", optimize=True)
            shots[name] = stream.getvalue()
            page.close()
        browser.close()
    return shots


def main() -> None:
    """Write the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="sample", help="the model that is shown")
    parser.add_argument("--data", help="calibration images; by default the bundled ones")
    parser.add_argument("--output", type=Path, default=Path("docs/images"), help="folder of the screenshots")
    given = parser.parse_args()
    process, address = serve()
    try:
        shots = take(address, given.model, given.data)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    for name, content in shots.items():
        if len(content) > MOST_BYTES:
            sys.exit(f"{name}.png has {len(content)} bytes; at most {MOST_BYTES} are allowed.")
        (given.output / f"{name}.png").write_bytes(content)


if __name__ == "__main__":
    main()
