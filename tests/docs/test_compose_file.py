"""docker-compose.yml read without an engine: what its containers may do, and where what strangers upload lies."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSED: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSED["services"]
PROCESSES = {name: service for name, service in SERVICES.items() if name != "redis"}
SPOOLING = ("gateway", "task-service")
"""Which processes write what strangers send to files that are gone afterwards: `tempfile` is imported nowhere else."""
PACKAGES = {"gateway": "gateway", "task-service": "services/task_service", "aggregator": "services/aggregator"}


def mounts(service: str) -> dict[str, str]:
    """What is mounted, by its folder in the container; a volume without a name has an empty one."""
    found = {}
    for entry in SERVICES[service].get("volumes", []):
        source, _, rest = entry.rpartition(":/") if ":/" in entry else ("", "", entry.lstrip("/"))
        found["/" + rest.partition(":")[0]] = source
    return found


@pytest.mark.parametrize("service", SERVICES)
def test_no_container_may_more_than_it_needs(service: str) -> None:
    described = SERVICES[service]
    assert described["read_only"] is True
    assert described["cap_drop"] == ["ALL"]
    assert described["security_opt"] == ["no-new-privileges:true"]
    assert described["user"] == ("redis" if service == "redis" else "disco")
    assert {"privileged", "cap_add", "devices", "pid", "network_mode", "userns_mode"}.isdisjoint(described)


def test_the_gateway_keeps_nothing_and_reaches_no_redis() -> None:
    assert SERVICES["gateway"]["networks"] == ["calls"]
    assert SERVICES["redis"]["networks"] == ["store"]
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["gateway"]
    named = [volume for volume in mounts("gateway").values() if volume]
    assert [
        volume for volume in named if COMPOSED["volumes"][volume].get("driver_opts", {}).get("type") != "tmpfs"
    ] == []


@pytest.mark.parametrize("service", SPOOLING)
def test_uploads_lie_on_a_disk_while_they_are_received(service: str) -> None:
    spool = SERVICES[service]["environment"]["TMPDIR"]
    memory = [each.partition(":")[0] for each in SERVICES[service]["tmpfs"]]
    assert mounts(service)[spool] == "", "a volume that no other container has, since each clears its own"
    assert not any(spool == each or spool.startswith(f"{each}/") for each in memory)


@pytest.mark.parametrize("service", SPOOLING)
def test_what_a_kill_left_is_cleared_before_the_process_starts_in_its_place(service: str) -> None:
    spool = SERVICES[service]["environment"]["TMPDIR"]
    shell, option, line = SERVICES[service]["command"]
    assert (shell, option) == ("sh", "-c")
    module = PACKAGES[service].replace("/", ".")
    # With exec, so that the process, and not the shell, is told to stop.
    assert line == f"rm -rf {spool}/* && exec python -m {module}"


@pytest.mark.parametrize("service", SPOOLING)
def test_user_of_the_image_may_write_where_uploads_lie(service: str) -> None:
    """A volume without a name has the owner that the folder has in the image; Python would else spool to /tmp again."""
    spool = SERVICES[service]["environment"]["TMPDIR"]
    (made,) = re.findall(r"mkdir ([^&\n]+?) &&", (ROOT / "Dockerfile").read_text())
    (owned,) = re.findall(r"chown disco:disco ([^&\n]+)", (ROOT / "Dockerfile").read_text())
    assert spool in made.split()
    assert spool in owned.split()


def test_no_other_process_spools() -> None:
    for name in PROCESSES:
        folder = ROOT / PACKAGES.get(name, f"services/{name}")
        spools = any("import tempfile" in file.read_text() for file in folder.rglob("*.py"))
        assert spools == (name in SPOOLING), name
