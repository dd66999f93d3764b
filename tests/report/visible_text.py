"""What a reader sees or hears of a page."""

from html.parser import HTMLParser


def visible_text(page: str) -> str:
    """The text of a page with that of its figures and their labels, without style and script."""
    reader = _Reader()
    reader.feed(page)
    return " ".join(" ".join(reader.found).split())


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found, self.hidden = [], False

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.hidden = tag in ("style", "script")
        self.found += [value for name, value in attributes if name in ("aria-label", "title", "alt") and value]

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        self.found += [] if self.hidden else [data]
