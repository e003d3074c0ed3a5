"""`python -m disco_server` is `disco-server`."""

from __future__ import annotations

from disco_server.command_line import app

app(prog_name="disco-server")
