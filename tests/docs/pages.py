"""Reads what the pages in docs/ promise: tables, frames, links. Knows markdown, and nothing of Disco."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"

_FRAME = re.compile(r"(\w) ([→←]) (.*)")
_BYTES = re.compile(r'"([^"]*)"|([0-9a-f]{2})|\s+')


@dataclass(frozen=True)
class Frame:
    """One frame of a session: who holds the socket, whether it is sent to the gateway, and what stands below it."""

    who: str
    is_sent: bool
    data: bytes
    said: dict[str, Any] | None


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table(text: str, *columns: str) -> list[list[str]]:
    """The rows of the one table that has these columns."""
    head = "| " + " | ".join(columns) + " |"
    lines = text.splitlines()
    assert lines.count(head) == 1, f"there must be one table {head}"
    rows = []
    for line in lines[lines.index(head) + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert len(cells) == len(columns), line
        rows.append(cells)
    return rows


def quoted(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]*)`", cell)


def bytes_of(text: str) -> bytes:
    """Hex digits, and quoted text for its bytes."""
    found = bytearray()
    at = 0
    while at < len(text):
        match = _BYTES.match(text, at)
        assert match, f"{text[at:]!r} is neither hex nor quoted"
        if match[1] is not None:
            found += match[1].encode()
        elif match[2] is not None:
            found += bytes.fromhex(match[2])
        at = match.end()
    return bytes(found)


def sessions(text: str) -> list[list[Frame]]:
    """The frames of each block `frames`, in order."""
    return [list(_frames(block)) for block in re.findall(r"```frames\n(.*?)```", text, re.S)]


def _frames(block: str) -> Iterator[Frame]:
    for part in re.split(r"^(?=\w [→←])", block, flags=re.M):
        if not part:
            continue
        spelled, brace, said = re.sub(r"\s+#.*", "", part).partition("{")
        match = _FRAME.fullmatch(" ".join(spelled.split()))
        assert match, part
        yield Frame(match[1], match[2] == "→", bytes_of(match[3]), json.loads(brace + said) if brace else None)


def broken_links(name: str) -> list[str]:
    """Links of a page to files, or headings of pages, that are not there."""
    return [link for link in re.findall(r"\]\(([^)#:]*(?:#[^)]*)?)\)", page(name)) if not _leads_somewhere(name, link)]


def _leads_somewhere(name: str, link: str) -> bool:
    path, _, heading = link.partition("#")
    target = (DOCS / path).resolve() if path else DOCS / name
    if not heading:
        return target.exists()
    headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.M)
    return heading in [re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings]
