"""Who may create, change and delete tasks over HTTP, and how often: one place, for every route that does.

A browser says for which page it asks: what only this machine may do, pages of other sites may not do through
it (`gateway.own_machine`), whatever the method.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict, deque
from collections.abc import Callable

from fastapi import Request

from gateway.client_address import client_address
from gateway.own_machine import is_from_here
from gateway.settings import GatewaySettings
from learning.refusals import TaskCreationDenied, TooManyUploads

MINUTE_S = 60.0
MAX_ADDRESSES = 10_000
"""Of which it is known when they came; of more, the one that came longest ago is forgotten."""
_BEARER = "Bearer "
_TURNED_OFF = "it is turned off (DISCO_TASK_CREATION=off)"
_NEVER_ALLOWED = (
    "others than this machine reach the gateway, and it was never said who may. Whoever runs it sets DISCO_TASK_TOKEN, "
    "and you send the token; or DISCO_TASK_CREATION=open"
)
_NOT_FROM_HERE = (
    "only programs and pages of the gateway's own machine may, and this request came from elsewhere, through a proxy "
    "or from a page of another site. Set DISCO_TASK_CREATION=token and DISCO_TASK_TOKEN, and send the token"
)


class TaskPermission:
    """`clock` tells seconds."""

    def __init__(self, settings: GatewaySettings, *, clock: Callable[[], float]) -> None:
        self._creation = settings.effective_task_creation
        self._off = _TURNED_OFF if settings.task_creation == "off" else _NEVER_ALLOWED
        self._token = settings.task_token.get_secret_value()
        self._limit = settings.uploads_per_minute
        self._trusts_forwarded_for = settings.forwarded_for == "trusted"
        self._clock = clock
        self._came: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, request: Request) -> None:
        """Raises TaskCreationDenied, TooManyUploads. A request that is denied counts as none."""
        self._authorize(request)
        if self._limit:
            self._count(self._address(request))

    def _authorize(self, request: Request) -> None:
        if self._creation == "open":
            return
        if self._creation == "off":
            raise TaskCreationDenied(problem=self._off)
        if self._creation == "local" and is_from_here(request.client and request.client.host, request.headers):
            return
        if not self._token:
            raise TaskCreationDenied(problem=_NOT_FROM_HERE)
        given = request.headers.get("authorization", "")
        if not hmac.compare_digest(given.encode(), (_BEARER + self._token).encode()):
            raise TaskCreationDenied(problem="send the token as `Authorization: Bearer …`")

    def _address(self, request: Request) -> str:
        peer = request.client.host if request.client else ""
        return client_address(peer, request.headers, trusts_forwarded_for=self._trusts_forwarded_for)

    def _count(self, address: str) -> None:
        now = self._clock()
        came = self._came.setdefault(address, deque(maxlen=self._limit))
        self._came.move_to_end(address)
        if len(came) == self._limit and (wait := came[0] + MINUTE_S - now) > 0:
            raise TooManyUploads(limit=self._limit, seconds=math.ceil(wait))
        came.append(now)
        if len(self._came) > MAX_ADDRESSES:
            self._came.popitem(last=False)
