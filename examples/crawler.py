"""A crawler in an event loop: workers read and parse pages, the loop follows the links.

It writes a small site into a temporary directory and starts at its first page. A call is awaited like a coroutine
(`await read(...)`), and `async for` takes each page of a level as it completes. A page that is not there raises in its
worker, and the error arrives as itself. Run it as `python examples/crawler.py`.
"""

import asyncio
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

from flame_fast import Runner

PAGES = 40


class Page(NamedTuple):
    """A page that was read: its name, its title, and the names that it links to."""

    name: str
    title: str
    links: list[str]


class PageParser(HTMLParser):
    """Gathers the title and the links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self.links: list[str] = []
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_title = tag == "title"
        self.links += [value for name, value in attrs if tag == "a" and name == "href" and value]

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data

    def handle_endtag(self, tag: str) -> None:
        self._in_title = False


def read_page(site: Path, name: str) -> Page:
    """Read and parse one page, in a worker."""
    parser = PageParser()
    parser.feed((site / name).read_text())
    return Page(name, parser.title, parser.links)


def write_site(site: Path) -> None:
    """Write pages that link to two others each, as a tree, and one link to nowhere."""
    for number in range(PAGES):
        links = [f"page{child}.html" for child in (2 * number + 1, 2 * number + 2) if child < PAGES]
        links += ["page0.html"] + ["missing.html"] * (number == 7)
        anchors = "".join(f'<a href="{link}">{link}</a>' for link in links)
        (site / f"page{number}.html").write_text(f"<title>Page {number}</title><body>{anchors}</body>")


async def crawl(site: Path, first: str) -> tuple[dict[str, Page], list[str]]:
    """Return the pages that can be reached from the first one, and the names of those that are not there."""
    async with Runner("crawler") as rr:
        read = rr.service(read_page)
        start = await read(site, first)
        pages, broken, seen = {first: start}, [], {first, *start.links}
        level = sorted(seen - {first})
        while level:
            print(f"reading {len(level)} pages")
            calls = {read(site, name): name for name in level}
            level = []
            async for call in rr.select(list(calls)):
                try:
                    page = await call
                except FileNotFoundError:
                    broken.append(calls[call])
                    continue
                pages[page.name] = page
                level += [link for link in page.links if link not in seen]
                seen.update(page.links)
    return pages, broken


def main() -> None:
    """Write the site, crawl it, and check that every page was found."""
    with tempfile.TemporaryDirectory() as directory:
        write_site(Path(directory))
        pages, broken = asyncio.run(crawl(Path(directory), "page0.html"))

    assert {page.title for page in pages.values()} == {f"Page {number}" for number in range(PAGES)}
    assert broken == ["missing.html"]
    print(f"Found {len(pages)} pages, and a broken link to {broken[0]}.")


if __name__ == "__main__":
    main()
