"""How long the page of ``hf-vbp ui`` takes: until it is up, for inspections, and for moves of the slider.

    python -m benchmarks.page [MODEL] [--moves 20]

Needs Chromium, playwright and gradio. All times are seconds as a visitor sees them in Chromium, on an otherwise idle
machine.
"""

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

PATIENCE = 300_000
NAMES = ("chromium", "chromium-browser", "google-chrome")


def free_port() -> int:
    """Return a port that no program listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def inspection(page: Any, model: str) -> float:
    """Return the seconds of one inspection, from the click to the table."""
    # The sentence for an empty name disappears with the answer, also where the table is the same as before.
    name, sentence = page.locator("#model").locator("input, textarea").first, page.locator("#message [role=alert]")
    name.fill("")
    page.locator("#inspect").click()
    sentence.wait_for()
    name.fill(model)
    begin = time.perf_counter()
    page.locator("#inspect").click()
    sentence.wait_for(state="detached")
    page.locator("#inspected table").first.wait_for()
    return time.perf_counter() - begin


def moves(page: Any, number: int) -> list[float]:
    """Return the seconds of moves of the slider by one percent, from the key to the new figures."""
    page.locator("#gather").click()
    page.locator("#figures table").first.wait_for()
    slider, found = page.locator("#share").locator("input[type=range]"), []
    slider.focus()
    for _ in range(number):
        percent = int(slider.input_value()) + 1
        begin = time.perf_counter()
        slider.press("ArrowRight")
        page.locator("#figures").get_by_text(f"Cost with {percent} %").first.wait_for()
        found.append(time.perf_counter() - begin)
    return found


def main() -> None:
    """Print one row for each thing that a visitor waits for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="sample")
    parser.add_argument("--moves", type=int, default=20)
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        sys.exit("benchmarks.page: Chromium is not installed; make install-browser installs it.")
    port, begin = free_port(), time.perf_counter()
    command = [sys.executable, "-m", "hf_vbp", "ui", "--port", str(port)]
    with sync_playwright() as started, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            served = time.perf_counter() - begin
            browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.set_default_timeout(PATIENCE)
            opened = time.perf_counter()
            page.goto(f"http://127.0.0.1:{port}/")
            page.locator("#model").locator("input, textarea").first.wait_for()
            rows = [("page served after the start", served), ("page shown", time.perf_counter() - opened)]
            rows += [(f"{name} inspection", inspection(page, given.model)) for name in ("first", "later")]
            found = moves(page, given.moves)
            rows += [("slider move, median", statistics.median(found)), ("slider move, longest", max(found))]
            browser.close()
        finally:
            server.terminate()
    for name, seconds in rows:
        print(f"{name:28}  {seconds:7.3f} s")


if __name__ == "__main__":
    main()
