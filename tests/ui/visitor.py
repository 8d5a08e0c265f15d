"""What a visitor does with the page and sees of it."""

import re
from pathlib import Path
from typing import Any

TIMEOUT = 120_000


class Visitor:
    """One browser context: its own cookies, its own tab."""

    def __init__(self, context: Any, url: str) -> None:
        self.context, self.url = context, url
        context.set_default_timeout(TIMEOUT)
        self.page = context.new_page()
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.at("model").locator("input, textarea").wait_for()

    def leave(self) -> None:
        self.context.close()

    def at(self, name: str) -> Any:
        return self.page.locator(f"#{name}")

    def text(self, name: str) -> str:
        # Gradio shows above a widget for how long it has been waiting.
        return re.sub(r"^(processing \| )?[\d.]+s\s+", "", str(self.at(name).inner_text()).strip())

    def click(self, name: str) -> None:
        self.at(name).click()

    def fill(self, name: str, value: str) -> None:
        self.at(name).locator("input, textarea").first.fill(value)

    def choose(self, name: str, label: str) -> None:
        self.at(name).get_by_label(label).check()

    def wait(self, name: str, text: str) -> None:
        self.at(name).get_by_text(text).first.wait_for()

    def inspect(self, model: str) -> None:
        self.fill("model", model)
        self.click("inspect")

    def upload(self, pictures: list[Path]) -> None:
        self.choose("kind-of-images", "Uploaded pictures")
        self.at("uploads").locator("input[type=file]").set_input_files([str(path) for path in pictures])
        self.at("uploads").get_by_text(pictures[-1].suffix).first.wait_for()

    def gather(self) -> None:
        self.click("gather")
        self.wait("progress", "Statistics: done.")
        self.at("figures").locator("table").first.wait_for()

    def slide(self, percent: int) -> None:
        number = self.at("share").locator("input[type=number]")
        number.fill(str(percent))
        number.press("Tab")
        self.wait("figures", f"Cost with {percent} %")

    def kept(self, row: str) -> str:
        """Return the last cell of a row of the figures."""
        cells = self.at("figures").locator("tr", has_text=row).first.locator("td")
        return str(cells.last.inner_text())

    def error(self) -> str:
        self.at("message").get_by_role("alert").wait_for()
        return self.text("message")
