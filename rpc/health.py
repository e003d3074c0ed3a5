"""Asks a gRPC process how it is: `python -m rpc.health HOST:PORT` exits with 0 where it serves, else with 1.

For the health checks of containers and for whoever starts processes. Knows the
standard health protocol of gRPC, and no service of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rpc.credentials import channel_credentials
from rpc.settings import ProcessSettings, load

DEADLINE_S = 2.0
# Connections of other channels, perhaps pausing after a failure, say nothing about now.
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


async def is_serving(
    target: str,
    *,
    service: str = "",
    credentials: grpc.ChannelCredentials | None = None,
    deadline_s: float = DEADLINE_S,
) -> bool:
    """Whether the process at `target` says that it serves; False where it does not answer in time."""
    if credentials is None:
        channel = grpc.aio.insecure_channel(target, options=_OPTIONS)
    else:
        channel = grpc.aio.secure_channel(target, credentials, options=_OPTIONS)
    async with channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=deadline_s
            )
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m rpc.health", description="Exits with 0 if a gRPC process serves.")
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument("--service", default="", help="full name of one of its services; the whole process if absent")
    arguments = parser.parse_args()
    credentials = channel_credentials(load(ProcessSettings))
    if not asyncio.run(is_serving(arguments.target, service=arguments.service, credentials=credentials)):
        sys.exit(f"{arguments.target} does not serve.")


if __name__ == "__main__":
    main()
