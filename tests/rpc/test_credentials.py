"""Who may call: certificates made for the test, and the shared token, over real connections."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from pydantic import SecretStr

from learning.refusals import StoreUnavailable
from rpc.channel import connect
from rpc.credentials import channel_credentials, server_credentials, token_metadata
from rpc.settings import ProcessSettings, ServerSettings
from rpc.status import UnexplainedFault
from tests.rpc.echo_service import METHODS, SERVICE, call, echo_handlers, running
from tests.waiting import eventually


async def nothing(_request: bytes, _context: Any) -> None:
    return


class Authority:
    """Signs certificates and writes them as PEM files into a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            self._unsigned(self._name, self._key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.certificate = folder / f"{name}.pem"
        self.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def _unsigned(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    def issue(self, name: str) -> dict[str, Path]:
        """A certificate for 127.0.0.1 and its key, as settings."""
        key = ec.generate_private_key(ec.SECP256R1())
        usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        certificate = (
            self._unsigned(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .add_extension(usages, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        files = {"tls_cert": self._folder / f"{name}.pem", "tls_key": self._folder / f"{name}.key"}
        files["tls_cert"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files["tls_key"].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return files


@dataclass
class Certificates:
    """Ours, and those of somebody else."""

    authority: Path
    server: dict[str, Path]
    client: dict[str, Path]
    strangers_authority: Path
    stranger: dict[str, Path]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    return Certificates(
        ours.certificate, ours.issue("server"), ours.issue("client"), theirs.certificate, theirs.issue("stranger")
    )


async def answers(server: ServerSettings, client: ProcessSettings | None) -> bool:
    """Whether a call gets through."""
    async with running(echo_handlers(nothing), settings=server) as process, connect(process.target, client) as channel:
        try:
            return await call(channel, "UnaryUnary", timeout=5) == [b"answer"]
        except StoreUnavailable:
            return False


async def test_a_client_with_our_certificate_gets_through(certificates: Certificates) -> None:
    server = ServerSettings(**certificates.server, tls_ca=certificates.authority)
    client = ProcessSettings(**certificates.client, tls_ca=certificates.authority)
    assert await answers(server, client)


async def test_a_client_without_a_certificate_does_not(certificates: Certificates) -> None:
    server = ServerSettings(**certificates.server, tls_ca=certificates.authority)
    assert not await answers(server, ProcessSettings(tls_ca=certificates.authority))


async def test_a_client_with_a_strangers_certificate_does_not(certificates: Certificates) -> None:
    server = ServerSettings(**certificates.server, tls_ca=certificates.authority)
    client = ProcessSettings(**certificates.stranger, tls_ca=certificates.authority)
    assert not await answers(server, client)


async def test_a_client_without_tls_does_not(certificates: Certificates) -> None:
    server = ServerSettings(**certificates.server, tls_ca=certificates.authority)
    assert not await answers(server, None)


async def test_a_server_whose_certificate_a_stranger_signed_is_not_trusted(certificates: Certificates) -> None:
    server = ServerSettings(**certificates.stranger, tls_ca=certificates.authority)
    client = ProcessSettings(**certificates.client, tls_ca=certificates.authority)
    assert not await answers(server, client)


async def test_a_server_without_an_authority_takes_clients_without_certificates(certificates: Certificates) -> None:
    assert await answers(ServerSettings(**certificates.server), ProcessSettings(tls_ca=certificates.authority))


async def test_a_list_of_addresses_is_checked_against_the_first_of_them(certificates: Certificates) -> None:
    # What should happen: calls reach every replica of the list, each under the name that its certificate carries.
    # What should not happen: a call to a list that begins with an address the certificates do not carry.
    settings = ServerSettings(**certificates.server, tls_ca=certificates.authority)
    client = ProcessSettings(**certificates.client, tls_ca=certificates.authority)
    reached: set[str] = set()

    def noting(name: str) -> Any:
        async def note(_request: bytes, _context: Any) -> None:
            reached.add(name)

        return echo_handlers(note)

    async with running(noting("one"), settings=settings) as one, running(noting("two"), settings=settings) as two:
        async with connect(f"ipv4:{one.target},{two.target}", client) as channel:

            async def both_were_reached() -> bool:
                assert await call(channel, "UnaryUnary", timeout=5) == [b"answer"]
                return reached == {"one", "two"}

            await eventually(both_were_reached)
        async with connect(f"ipv4:127.0.0.2:{one.port},{two.target}", client) as channel:
            with pytest.raises(StoreUnavailable):
                await call(channel, "UnaryUnary", timeout=5)


def test_without_certificates_there_is_no_tls() -> None:
    assert server_credentials(ServerSettings()) is None
    assert channel_credentials(ProcessSettings()) is None
    assert token_metadata(ProcessSettings()) == ()


TOKEN = SecretStr("a shared secret")


@pytest.mark.parametrize("method", METHODS)
async def test_a_call_with_the_token_gets_through(method: str) -> None:
    async with (
        running(echo_handlers(nothing), settings=ServerSettings(service_token=TOKEN)) as server,
        connect(server.target, ProcessSettings(service_token=TOKEN)) as channel,
    ):
        assert await call(channel, method) in ([b"answer"], [b"first"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer another", "a shared secret", "bearer a shared secret"])
async def test_a_call_without_the_token_is_unauthenticated_and_reaches_no_handler(
    method: str, given: str | None
) -> None:
    async def body(_request: bytes, _context: Any) -> None:
        raise AssertionError("was reached")

    async with (
        running(echo_handlers(body), settings=ServerSettings(service_token=TOKEN)) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, method, metadata=() if given is None else (("authorization", given),))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details() == "The call must carry the service token."


async def test_our_channel_says_unauthenticated_in_words() -> None:
    async with (
        running(echo_handlers(nothing), settings=ServerSettings(service_token=TOKEN)) as server,
        connect(server.target) as channel,
    ):
        with pytest.raises(UnexplainedFault, match="UNAUTHENTICATED: The call must carry the service token"):
            await call(channel, "UnaryUnary")


async def test_health_checks_and_reflection_need_no_token() -> None:
    async with (
        running(echo_handlers(nothing), settings=ServerSettings(service_token=TOKEN)) as server,
        connect(server.target) as channel,
    ):
        health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert (await stream.read()).HasField("list_services_response")
        await stream.done_writing()
