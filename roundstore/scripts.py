"""The Lua scripts: loaded from lua/, called with the keys and arguments that their headers name.

A header is a contract, and it is read as one:

    -- KEYS[1]   what                        one line for each key
    -- ARGV[1]   what                        one line for each argument
    -- ARGV[2+]  3 each: what, what, what    for arguments that repeat to the end
    -- Returns
    --   1  what                             one line for each code, then what follows it in the reply

A call with another number of keys or arguments, and a reply with another code,
are bugs (AssertionError). Knows nothing of what the scripts are about.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from redis.exceptions import NoScriptError

from roundstore.redis_faults import store_faults
from roundstore.script_connections import ScriptConnections

Argument = str | bytes | int
Reply = list[Any]

_KEY = re.compile(r"^-- KEYS\[(\d+)\] ", re.MULTILINE)
_ARGUMENT = re.compile(r"^-- ARGV\[(\d+)\] ", re.MULTILINE)
_REPEATED = re.compile(r"^-- ARGV\[(\d+)\+\] +(\d+) each: ", re.MULTILINE)
_CODE = re.compile(r"^--   (-?\d+)  ", re.MULTILINE)


class Script:
    """One script. `name` is that of its file, without the ending."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._text = (resources.files("roundstore") / "lua" / f"{name}.lua").read_text()
        self.digest = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self.keys = len(_KEY.findall(self._text))
        self.arguments = len(_ARGUMENT.findall(self._text))
        repeated = _REPEATED.search(self._text)
        self.repeated = int(repeated[2]) if repeated else 0
        self.codes = frozenset(int(code) for code in _CODE.findall(self._text))
        assert self.codes, f"{name}.lua does not say what it returns"

    async def __call__(
        self, connections: ScriptConnections, *, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> Reply:
        """Runs the script, also in a Redis that does not know it (anew). Raises StoreUnavailable."""
        self._check_arity(len(keys), len(arguments))
        with store_faults():
            try:
                reply: Reply = await connections.call("EVALSHA", self.digest, len(keys), *keys, *arguments)
            except NoScriptError:
                reply = await connections.call("EVAL", self._text, len(keys), *keys, *arguments)
        assert reply[0] in self.codes, f"{self.name}.lua returned {reply[0]}, which its header does not know"
        return reply

    def _check_arity(self, keys: int, arguments: int) -> None:
        assert keys == self.keys, f"{self.name}.lua takes {self.keys} keys, not {keys}"
        more = arguments - self.arguments
        fits = more >= 0 and more % self.repeated == 0 if self.repeated else more == 0
        assert fits, (
            f"{self.name}.lua takes {self.arguments} arguments (and {self.repeated} more each), not {arguments}"
        )
