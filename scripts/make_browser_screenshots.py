"""Take the screenshots of docs/browser.md: the page of an export, on a desktop and on a phone.

    python scripts/make_browser_screenshots.py FOLDER [--picture FILE] [--output docs/images]

FOLDER is what ``hf-vbp export --web`` wrote. Without ``--picture`` an image of the sample is shown. Needs Chromium and
playwright (``pip install playwright``).
"""

import argparse
import functools
import io
import shutil
import sys
import tempfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

SIZES = {"browser_desktop": (1280, 720, "light"), "browser_phone": (390, 844, "dark")}
PATIENCE = 60_000
MOST_BYTES = 150_000


def sample_picture(folder: Path) -> Path:
    """Write an image of the sample to a folder."""
    from hf_vbp.sample import sample_images

    path = folder / "digit.png"
    sample_images("evaluation")[3]["image"].save(path)
    return path


def take(address: str, picture: Path) -> dict[str, bytes]:
    """Return the screenshots as PNG files of at most 64 colors."""
    from playwright.sync_api import expect, sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("Chromium is not installed. Install it with the packages of the system.")
    shots = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name, (width, height, scheme) in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(address)
            expect(page.get_by_role("status")).to_contain_text("Ready", timeout=PATIENCE)
            page.get_by_label("Choose a picture").set_input_files(picture)
            measure = page.get_by_role("button", name="Measure")
            expect(measure).to_be_enabled(timeout=PATIENCE)
            measure.click()
            expect(page.locator(".time").last).to_contain_text("median", timeout=PATIENCE)
            page.mouse.move(0, 0)
            shot = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
            stream = io.BytesIO()
            shot.quantize(64).save(stream, "PNG", optimize=True)
            shots[name] = stream.getvalue()
        browser.close()
    return shots


def main() -> None:
    """Serve the page on the loopback interface and write the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    options = parser.parse_args()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(options.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with tempfile.TemporaryDirectory() as folder:
            picture = options.picture or sample_picture(Path(folder))
            shots = take(f"http://127.0.0.1:{server.server_address[1]}/", picture)
        server.shutdown()
    for name, content in shots.items():
        if len(content) > MOST_BYTES:
            sys.exit(f"{name} has {len(content)} bytes, more than {MOST_BYTES}.")
        path = options.output / f"{name}.png"
        path.write_bytes(content)
        print(f"{path}: {len(content)} bytes")


if __name__ == "__main__":
    main()
