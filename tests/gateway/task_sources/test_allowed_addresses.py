"""Where a stranger's URL may lead."""

from __future__ import annotations

import pytest

from gateway.task_sources.allowed_addresses import is_allowed, networks

PUBLIC = ["8.8.8.8", "142.250.1.1", "2a00:1450:4001::1", "::ffff:8.8.8.8"]
INSIDE = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "100.100.100.200", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.0.192", "198.18.0.1",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::",
    "::127.0.0.1", "2001:db8::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_allowed(address: str) -> None:
    assert is_allowed(address, ())


@pytest.mark.parametrize("address", INSIDE)
def test_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_allowed(address, ())


def test_named_network_is_allowed_and_no_other() -> None:
    allowed = networks("127.0.0.0/8, fd00::/8")
    found = [
        is_allowed(address, allowed) for address in ("127.0.0.1", "::ffff:127.0.0.1", "fd00::1", "::1", "10.0.0.1")
    ]
    assert found == [True, True, True, False, False]


def test_network_that_is_none_raises() -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        networks("home")
