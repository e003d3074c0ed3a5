"""Ports that are free, and one sentence for each kind that is not."""

from __future__ import annotations

import socket

import pytest

from disco_server.cannot_start import CannotStart
from disco_server.ports import WantedPort, find_free


def wanted(port: int, host: str = "127.0.0.1") -> WantedPort:
    return WantedPort("DISCO_GATEWAY_PORT", "DISCO_GATEWAY_HOST", host, port)


def test_zero_becomes_a_port_that_nobody_else_was_given() -> None:
    numbers = find_free([wanted(0) for _ in range(50)])
    assert len(set(numbers)) == 50
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", numbers[0]))


def test_number_that_is_free_is_kept_and_given_to_no_zero() -> None:
    (number,) = find_free([wanted(0)])
    assert find_free([wanted(0), wanted(number), wanted(0)])[1] == number


def test_taken_port_is_named_with_its_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(CannotStart) as refused:
            find_free([wanted(port)])
    assert str(refused.value) == (
        f"Port {port} on 127.0.0.1 is taken: stop what uses it, or choose another port with DISCO_GATEWAY_PORT."
    )


def test_same_port_for_two_processes_is_refused() -> None:
    (number,) = find_free([wanted(0)])
    with pytest.raises(CannotStart, match=f"Port {number} on 127.0.0.1 is taken"):
        find_free([wanted(number), wanted(number)])


@pytest.mark.parametrize("host", ["203.0.113.7", "no-such-host.invalid"])
def test_address_that_is_not_ours_is_named_with_its_variable(host: str) -> None:
    with pytest.raises(CannotStart, match=rf"Nothing can listen on {host} port 0 \(.+\): check DISCO_GATEWAY_HOST\."):
        find_free([wanted(0, host)])
