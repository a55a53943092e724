"""Who a process is: enough to tell, later and from another process, whether it still lives.

A pid alone is not: pids are reused, and mean nothing on another machine or in another container.
"""

import os
from pathlib import Path
from typing import Any

import psutil


def identity(pid: int | None = None) -> dict[str, Any]:
    process = psutil.Process(pid)
    return {"machine": _machine(), "pid": process.pid, "started": process.create_time()}


def is_gone(who: dict[str, Any] | None) -> bool:
    """True only when it is certain: the process was on this machine and is no more."""
    if who is None or who["machine"] != _machine():
        return False
    try:
        process = psutil.Process(who["pid"])
        return abs(process.create_time() - who["started"]) > 1 or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    parts = (boot.read_text().strip(), str(namespace.readlink())) if boot.exists() else (os.uname().nodename, "")
    return "/".join(parts)
