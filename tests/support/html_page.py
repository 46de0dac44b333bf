"""Reads an HTML report in a test."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID_TAGS = {"meta", "img", "br", "link", "line", "circle", "path", "polyline"}
_Attributes = list[tuple[str, str | None]]


class HtmlPage(HTMLParser):
    """Collects the text, images and references of a page. Fails if its tags are not balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.references: list[str] = []
        self.classes: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: _Attributes) -> None:
        """Records an opening tag."""
        given = dict(attrs)
        self.tags.append(tag)
        self.classes += (given.get("class") or "").split()
        self.references += [value for key, value in attrs if key in ("src", "href", "srcset") and value]
        if tag == "img":
            self.images.append(given)
        if tag not in _VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: _Attributes) -> None:
        """Records a tag that closes itself."""
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Checks that the innermost open tag is the one that closes."""
        assert self.open, f"{tag} was never opened"
        assert self.open.pop() == tag, f"{tag} is closed out of order"

    def handle_data(self, data: str) -> None:
        """Records visible text."""
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)
