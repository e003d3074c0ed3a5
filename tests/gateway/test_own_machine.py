"""Which requests this machine makes for itself."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from gateway.own_machine import is_from_here, is_loopback

HOST = ("host", "127.0.0.1:8080")


def judge(*headers: tuple[str, str], client: str | None = "127.0.0.1") -> bool:
    return is_from_here(client, Headers(raw=[(name.encode(), value.encode()) for name, value in headers]))


@pytest.mark.parametrize("host", ["localhost:8080", "LOCALHOST", "127.0.0.1", "127.8.8.8:1", "[::1]:8080", "[::1]"])
def test_program_of_this_machine_is_from_here(host: str) -> None:
    assert judge(("host", host))
    assert judge(("host", host), client="::1")


@pytest.mark.parametrize("client", [None, "10.0.0.7", "2001:db8::1", "::ffff:10.0.0.7", "testclient"])
def test_another_machine_is_not(client: str | None) -> None:
    assert not judge(HOST, client=client)


@pytest.mark.parametrize(
    "header",
    [
        ("forwarded", "for=127.0.0.1"),
        ("via", "1.1 proxy"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-for", ""),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "localhost"),
        ("x-real-ip", "127.0.0.1"),
    ],
)
def test_what_a_proxy_passes_on_is_not(header: tuple[str, str]) -> None:
    assert not judge(HOST, header)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "evil.example@localhost",
        "localhost@evil.example",
        "localhost/evil",
        "127.0.0.1.nip.io",
        "0.0.0.0:8080",
        "[2001:db8::1]",
        "",
    ],
)
def test_name_that_was_made_to_lead_here_is_not(host: str) -> None:
    assert not judge(("host", host))
    assert not judge(HOST, ("host", host))


def test_request_without_a_host_is_not() -> None:
    assert not judge()


@pytest.mark.parametrize("origin", ["http://localhost:8081", "https://127.0.0.1", "http://[::1]:3000"])
def test_page_of_this_machine_is_from_here(origin: str) -> None:
    assert judge(HOST, ("origin", origin))


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "https://evil.example",
        "http://localhost.evil.example",
        "http://evil.example:8080/http://localhost",
        "http://localhost@evil.example",
        "http://localhost:80@evil.example",
        "http://[::1",
        "127.0.0.1:8080",
        "file://localhost",
        "chrome-extension://localhost",
    ],
)
def test_page_of_another_site_is_not(origin: str) -> None:
    assert not judge(HOST, ("origin", origin))
    assert not judge(HOST, ("origin", "http://localhost"), ("origin", origin))


@pytest.mark.parametrize(("host", "expected"), [("localhost", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)])
def test_loopback_is_what_only_this_machine_reaches(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
