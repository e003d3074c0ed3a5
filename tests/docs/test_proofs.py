"""docs/proofs.md is true: fields against the record, bytes against the code, commands against the command line."""

from __future__ import annotations

import re
from dataclasses import fields

import typer.main

from blobstore.records import LedgerEntry, LedgerLine
from disco_server.command_line import app
from learning.receipts import DOMAIN, KEY_ID_CHARACTERS, Statement
from tests.docs.pages import broken_links, page, quoted, table

PAGE = page("proofs.md")


def test_links_lead_somewhere() -> None:
    assert broken_links("proofs.md") == []


def test_page_names_every_field_of_an_entry_in_order() -> None:
    rows = table(PAGE, "field", "what")
    assert [quoted(name)[0] for name, _ in rows] == [field.name for field in fields(LedgerEntry)]
    told = {quoted(name)[0]: quoted(what) for name, what in rows}
    assert told["contributions"] == [field.name for field in fields(LedgerLine)]


def test_bytes_of_a_receipt_add_up() -> None:
    rows = table(PAGE, "bytes", "what")
    assert quoted(rows[0][1]) == [DOMAIN.decode()]
    sizes = sum(int(size.split(",")[0]) for size, _ in rows)
    assert len(Statement("task", 1, "who", "ab" * 32, 1, 0).encode()) == sizes + len("task") + len("who")
    assert f"first {KEY_ID_CHARACTERS} hex digits" in PAGE


def test_commands_exist_with_their_options() -> None:
    verify = typer.main.get_command(app).commands["verify"]  # type: ignore[attr-defined]
    told = re.findall(r"disco-server verify (\w+)((?: +(?!#)\S+)*)", PAGE)
    assert {name for name, _ in told} == set(verify.commands)
    for name, words in told:
        options = {option for parameter in verify.commands[name].params for option in parameter.opts}
        assert set(re.findall(r"--\w+", words)) <= options
