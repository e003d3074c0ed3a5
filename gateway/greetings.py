"""The one-line pages that each generation's server shows at its routes (protocol section 7). People look at them."""

from __future__ import annotations

_EARLY = {"/": "Server for DeAI & FeAI \n"}
_MIDDLE = {**_EARLY, "/feai": "Disco Federated Server\n", "/deai": "Disco Decentralized Server\n"}

GREETINGS: dict[str, dict[str, str]] = {
    "g21": {**_EARLY, "/feai": "FeAI Server\n", "/deai": "DeAI Server\n"},
    "g22": _MIDDLE,
    "g30": _MIDDLE,
    "gdv": {
        "/": "The DISCO Server\n",
        "/federated": "Disco federated server \n",
        "/decentralized": "Disco decentralized server \n",
    },
}
"""Text by dialect and path."""

ROOT_DIALECT = "gdv"
"""Whose greetings are shown where nothing tells the generation."""


def greeting(dialect: str, path: str) -> str | None:
    """The text at `path`; a route that only other generations have still greets where nothing tells the generation."""
    if dialect in GREETINGS:
        return GREETINGS[dialect].get(path)
    return GREETINGS[ROOT_DIALECT].get(path) or _MIDDLE.get(path)
