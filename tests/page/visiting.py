"""A visit of the page, at whose end nothing may have run or failed."""

from __future__ import annotations


class Visit:
    """A visit of the page. At its end nothing may have run or failed that the page did not want.

    Attributes:
        page: the page of the browser.
        allowed: the beginnings of messages of the console that a test causes by itself.
    """

    def __init__(self, browser, url: str, **options) -> None:
        self.url = url
        self.allowed: list[str] = []
        self._problems: list[str] = []
        self._context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        self.page = self._context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self._problems.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)

    def _heard(self, message) -> None:
        if message.type in ("error", "warning"):
            self._problems.append(message.text)

    def _dialog(self, dialog) -> None:
        self._problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request) -> None:
        if not request.url.startswith((self.url, "blob:")):
            self._problems.append(f"request to {request.url}")

    def goto(self, fragment: str = "") -> Visit:
        self.page.goto(f"{self.url}/{fragment}")
        return self

    def ended(self) -> None:
        self._context.close()
        found = [text for text in self._problems if not text.startswith(tuple(self.allowed))]
        assert found == []
