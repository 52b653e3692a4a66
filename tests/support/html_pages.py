"""Reads HTML strictly."""

from html.parser import HTMLParser

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Reads a page; fails where tags are not closed in their order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], [], [], []
        self.texts, self.inside = [], False  # what is in paragraphs of class tokens
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)
        if dict(attrs).get("class") == "tokens":
            self.texts.append("")
            self.inside = True

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.inside &= tag != "p"

    def handle_data(self, data):
        self.words.append(data)
        if self.inside and "sup" not in self.open:
            self.texts[-1] += data
