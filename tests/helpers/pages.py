"""Look into a page: its parts as they stand in the file, and what a browser makes of it."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PROBE = """<pre id="seen"></pre><script>
addEventListener("load", () => {
const seen = {rows: {}, violations: violated, errors: failed};
for (const [name, column] of CLICKS) {
  const table = [...document.querySelectorAll("h2")].find((h) => h.textContent === name)
    .nextElementSibling.querySelector("table");
  const button = [...table.querySelectorAll("th button")].find((b) => b.textContent === column);
  const column_of = (row) => row.cells[button.parentNode.cellIndex].textContent;
  const cells = () => [...table.tBodies[0].rows].map(column_of);
  const before = cells();
  button.focus(); button.click(); const down = cells(); button.click();
  seen.rows[name + "/" + column] = [before, down, cells(), button.parentNode.getAttribute("aria-sort"),
    document.activeElement === button];
}
document.querySelector("figure button").click();
seen.zoomed = document.getElementById("zoom").open;
document.getElementById("zoom").close();
seen.viewers = [...document.querySelectorAll(".viewer")].map((root) => {
  const canvas = root.querySelector("canvas"), tool = (name) => root.querySelector(`[name=${name}]`);
  const sum = () => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data
    .reduce((total, value, at) => (total * 31 + value * (at % 97)) % 1000000007, 7);
  const change = (element, value) => {
    if (element.type === "checkbox") element.checked = value; else element.value = value;
    element.dispatchEvent(new Event("input"));
    return [sum(), root.querySelector("output").textContent];
  };
  const boxes = [...root.querySelectorAll(".layers input")], slice = tool("slice");
  const first = slice.value;
  const steps = [change(slice, 0), change(slice, slice.max), change(slice, first),
    change(tool("preset"), "lung"),
    change(tool("opacity"), 0.8), change(tool("level"), 900)];
  steps.push(...boxes.map((box) => change(box, !box.checked)));
  root.querySelector(".stage").dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowDown"}));
  return {hidden: root.hidden, steps, preset: tool("preset").value, slice: [first, slice.value]};
});
seen.broken = [...document.images].filter((i) => i.src && !i.naturalWidth).length;
const fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
seen.fetched = fetched.filter((name) => !name.startsWith("data:"));
seen.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const tables = [...document.querySelectorAll(".scroll")];
seen.scrolled = tables.some((table) => table.scrollWidth > table.clientWidth);
seen.filled = tables.length && tables[0].offsetWidth / document.documentElement.clientWidth;
seen.paper = getComputedStyle(document.body).backgroundColor;
document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script>"""
LISTENERS = """<script>
const violated = [], failed = [];
addEventListener("securitypolicyviolation", (event) => violated.push(event.blockedURI));
addEventListener("error", (event) => failed.push(event.message));
</script>"""


@dataclass
class Seen(HTMLParser):
    """What a page holds."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    open: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    alts: list[str | None] = field(default_factory=list)
    headings: list[tuple[str, str]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [given[name] or "" for name in ("src", "srcset", "action") if name in given]
        self.links += [given["href"] or ""] if "href" in given else []
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag == "img" and "src" in given:
            self.alts.append(given.get("alt"))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((tag, ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.headings and self.open[-1] == self.headings[-1][0]:
            self.headings[-1] = (self.open[-1], self.headings[-1][1] + data)


def parse(html: str) -> Seen:
    """The parts of a page whose tags close in order."""
    seen = Seen()
    seen.feed(html)
    seen.close()
    assert seen.open == []
    return seen


def tables(html: str) -> dict[str, list[list[str]]]:
    """Cells of every table by its heading, the first row being the names of the columns."""
    found = {}
    whole = r"<h2>([^<]*)</h2>\s*<div class=\"card scroll\"[^>]*><table>(.*?)</table>"
    for title, table in re.findall(whole, html, re.DOTALL):
        rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
        cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        found[unescape(title)] = [[unescape(re.sub(r"<[^>]*>", "", cell)) for cell in row] for row in cells]
    return found


def pictures(seen: Seen) -> list[Image.Image]:
    """Every picture, decoded to its end."""
    found = []
    for source in seen.sources:
        kind, data = re.fullmatch(r"data:image/(png|jpeg);base64,(.*)", source).groups()  # type: ignore[union-attr]
        picture = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        picture.load()
        assert picture.format == kind.upper()
        found.append(picture)
    return found


def browser() -> str | None:
    """A browser of the Chromium family, if there is one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def browse(page: Path, folder: Path, *words: str, clicks: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """Open a page, press headings of tables, and say what is seen.

    `clicks` are pairs of a table's and a column's name. The answer holds, beside what `PROBE` collects, the
    path of a `screenshot`, what was written to the `console`, and every `requests` but that for the page.
    """
    html = page.read_text(encoding="utf-8")
    probe = PROBE.replace("CLICKS", json.dumps(clicks))
    probed = folder / "probed.html"
    probed.write_text(
        html.replace("<body>", "<body>" + LISTENERS).replace("</body>", probe + "</body>"), encoding="utf-8"
    )
    dom, log = _run(folder, probed, "--dump-dom", *words)
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert found, log
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    seen["console"] = [line for line in log.splitlines() if "CONSOLE" in line]
    seen["requests"] = _requests(folder / "net.json")
    seen["screenshot"] = folder / "page.png"
    _run(folder, page, f"--screenshot={seen['screenshot']}", *words)
    return seen


def _requests(log: Path) -> set[str]:
    """Addresses that the page asked for, but itself; the browser's own traffic has no page as its origin."""
    parameters = [event.get("params", {}) for event in json.loads(log.read_text(encoding="utf-8"))["events"]]
    asked = {one["url"] for one in parameters if one.get("initiator", "not an origin") != "not an origin"}
    return {url for url in asked if not url.startswith(("file:", "data:"))}


def _run(folder: Path, page: Path, *words: str) -> tuple[str, str]:
    command = [
        *(str(browser()), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
        # Nothing leaves this machine, neither for the page nor for the browser.
        "--host-resolver-rules=MAP * ~NOTFOUND",
        *("--disable-sync", "--disable-default-apps", "--disable-extensions", "--enable-logging=stderr"),
        *("--window-size=1280,1600", f"--user-data-dir={folder / 'profile'}"),
        *(f"--log-net-log={folder / 'net.json'}", *words, page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=True)
    return done.stdout, done.stderr
