"""Who may call: TLS, client certificates and the shared token, for servers and for channels.

    DISCO_TLS_CERT, DISCO_TLS_KEY   a server shows them; a channel shows them where clients are asked for one
    DISCO_TLS_CA                    a server then takes only clients it signed; a channel only servers it signed
    DISCO_SERVICE_TOKEN             every call but health checks and reflection must carry it

Knows no method of ours.
"""

from __future__ import annotations

import hmac
from typing import NoReturn

import grpc

from rpc.handlers import Context, Continuation, Handler, with_behaviour
from rpc.settings import ProcessSettings

TOKEN_KEY = "authorization"  # noqa: S105 (the name of a header)
_OPEN_SERVICES = ("grpc.health.v1.", "grpc.reflection.")


def server_credentials(settings: ProcessSettings) -> grpc.ServerCredentials | None:
    """What a server shows and asks for; None: no TLS."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    authority = settings.tls_ca.read_bytes() if settings.tls_ca else None
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())],
        root_certificates=authority,
        require_client_auth=authority is not None,
    )


def channel_credentials(settings: ProcessSettings) -> grpc.ChannelCredentials | None:
    """What a channel shows and asks for; None: no TLS. Without an authority of ours the system's are asked."""
    if settings.tls_ca is None and settings.tls_cert is None:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=settings.tls_ca.read_bytes() if settings.tls_ca else None,
        private_key=settings.tls_key.read_bytes() if settings.tls_key else None,
        certificate_chain=settings.tls_cert.read_bytes() if settings.tls_cert else None,
    )


def token_metadata(settings: ProcessSettings) -> tuple[tuple[str, str], ...]:
    """What a call carries to prove that it comes from one of ours."""
    token = settings.service_token.get_secret_value()
    return ((TOKEN_KEY, f"Bearer {token}"),) if token else ()


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses every call without the token as UNAUTHENTICATED, before its handler sees anything."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Handler | None:
        handler = await continuation(details)
        if handler is None or details.method.removeprefix("/").startswith(_OPEN_SERVICES):
            return handler
        given = dict(details.invocation_metadata or ()).get(TOKEN_KEY, "")
        encoded = given if isinstance(given, bytes) else given.encode()
        return handler if hmac.compare_digest(encoded, self._expected) else _refusing(handler)


def _refusing(handler: Handler) -> Handler:
    async def refuse(_request: object, context: Context) -> NoReturn:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "The call must carry the service token.")

    return with_behaviour(handler, refuse)
