"""Ids with a typed prefix, and the clock. Ids sort by creation time: 48 bits of milliseconds, then 80 random bits."""

import secrets
import time
from datetime import UTC, datetime


def new_id(prefix: str) -> str:
    """`job_0193a7c0e1f2…`: 12 hex digits of time, 20 of chance."""
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def now() -> float:
    """UTC seconds since the epoch."""
    return time.time()


def rfc3339(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
