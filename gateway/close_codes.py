"""With which code a socket ends, for each reason: one table, exhaustive by test.

    4000–4499   come back: the same may work in a moment, here or on another gateway
    4500–4999   do not come back: it would end the same way

A message that is refused costs that message only; these codes are for sockets
that cannot go on. Knows no dialect and no socket.
"""

from __future__ import annotations

from learning.refusals import DiscoError

MAX_REASON_BYTES = 123
"""A control frame holds 125 bytes (RFC 6455, section 5.5); the code takes two."""

CLOSE_CODES: dict[str, int] = {
    "SHUTDOWN": 4000,
    "STORE_UNAVAILABLE": 4001,
    "SLOW_CONSUMER": 4002,
    "PEER_REPLACED": 4003,
    "STREAM_STALLED": 4004,
    "ROUND_STALE": 4005,
    "ROUND_AHEAD": 4006,
    "DUPLICATE_CONTRIBUTION": 4007,
    "WEIGHT_CAP_REACHED": 4008,
    "PEER_NOT_CONNECTED": 4009,
    "VERSION_NOT_FOUND": 4010,
    "DIGEST_MISMATCH": 4011,
    "NORM_TOO_LARGE": 4521,
    "MALFORMED_MESSAGE": 4501,
    "INVALID_WEIGHTS": 4502,
    "WEIGHTS_NOT_FINITE": 4503,
    "TASK_NOT_FOUND": 4504,
    "WRONG_SCHEME": 4505,
    "INVALID_ID": 4506,
    "WEIGHTS_OUT_OF_BOUND": 4507,
    "STORED_DATA_DAMAGED": 4508,
    "INVALID_TASK": 4509,
    "INVALID_MODEL": 4510,
    "INVALID_POLICY": 4511,
    "TASK_ALREADY_EXISTS": 4512,
    "TASK_CREATION_DENIED": 4513,
    "NOT_IN_VERSION": 4514,
    "PRIVACY_BUDGET_SPENT": 4515,
    "PRIVACY_NOT_ACCOUNTED": 4516,
    "TASK_DELETED": 4517,
    "TASK_CHANGED": 4518,
    "TASK_FIELD_FIXED": 4519,
    "QUOTA_EXCEEDED": 4520,
    "MODEL_NOT_SENT": 4522,
    "TOO_MANY_UPLOADS": 4012,
    "STORAGE_FULL": 4013,
    "NOT_HANDED_OVER": 4014,
    "TOO_LARGE": 1009,
    "INTERNAL": 1011,
}


def close_frame(error: DiscoError) -> tuple[int, str]:
    """Code and reason for a socket that cannot go on because of `error`."""
    text = f"{error.reason}: {error}".encode()
    return CLOSE_CODES[error.reason], text[:MAX_REASON_BYTES].decode(errors="ignore")
