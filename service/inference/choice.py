"""Which engine serves a model version here: the certified one or, where it cannot run, the next that was certified."""

import importlib.util
import math
from typing import Any

from service.errors import InternalError
from service.inference.programs import TIMED, TORCH, Backend, parse
from service.settings import Settings

OTHERS = (Backend("openvino", "bf16"), Backend("openvino"), Backend("onnxruntime"))
INT8 = (Backend("onnxruntime", "int8"), Backend("openvino", "int8"))
ENGINES_FROM = 30.0  # seconds of a budget below which torch serves, unmeasured
QUICK_MS = 0.5  # of one picture: see decision 0015


def certified(card: dict[str, Any]) -> list[Backend]:
    """The engines that a certificate allows, the chosen one first, then by speed. Older ones know torch alone."""
    certificate = card.get("certificate", {})
    if "candidates" not in certificate:
        return [TORCH]
    passed = [row for row in certificate["candidates"] if row["passed"]]
    passed.sort(key=lambda row: (row["engine"] != certificate["engine"], pace(row["ms"])))
    return [parse(row["engine"]) for row in passed]


def pick(card: dict[str, Any], settings: Settings) -> Backend:
    """FOVEA_ENGINE where it was certified for this version, else the best that was and that this machine has."""
    allowed = certified(card)
    if settings.on_gpu and TORCH in allowed:
        return TORCH
    preferred = [one for one in allowed if one.name == settings.engine]
    for one in (*preferred, *allowed):
        if runs_here(one):
            return one
    raise InternalError("no_engine", f"none of {', '.join(map(str, allowed))} can run here")


def is_quick(card: dict[str, Any], backend: Backend) -> bool:
    """Did its certificate measure so little for one picture that a second thread would not pay?"""
    rows = card.get("certificate", {}).get("candidates", ())
    return any(row["ms"].get("1", math.inf) < QUICK_MS for row in rows if row["engine"] == str(backend))


def pace(milliseconds: dict[str, float]) -> float:
    """Milliseconds a picture, in the geometric mean over `TIMED`: of `{"1": 0.3, "8": 1.1, "64": 7.2}`; less is better.

    A batch that was not timed, as large ones of slow networks are not, goes at the pace of the next smaller.
    """
    each, product = math.inf, 1.0
    for size in TIMED:
        each = milliseconds.get(str(size), each * size) / size
        product *= each
    return float(product ** (1 / len(TIMED)))


def wanted(settings: Settings, budget: dict[str, float] | None = None) -> list[Backend]:
    """The engines beside torch that may be chosen, and for which a job has the time; no engine is asked."""
    hurried = budget is not None and budget["seconds"] < ENGINES_FROM
    if settings.engine == "torch" or settings.on_gpu or hurried:
        return []
    return [one for one in OTHERS if settings.engine in ("auto", one.name)]


def candidates(settings: Settings, budget: dict[str, float] | None = None) -> list[Backend]:
    """Those of them that this machine has."""
    return [one for one in wanted(settings, budget) if runs_here(one)]


def of_int8(settings: Settings) -> list[Backend]:
    """The engines that may serve a version in eight bits here: none on a graphics card, which torch serves."""
    if settings.on_gpu:
        return []
    return [one for one in INT8 if settings.engine in ("auto", one.name) and runs_here(one)]


def runs_here(backend: Backend) -> bool:
    if importlib.util.find_spec(backend.name) is None:
        return False
    if backend.precision != "bf16":
        return True
    from service.inference.onnx_program import bf16_pays

    return bf16_pays()
