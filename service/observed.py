"""What Prometheus is told of answers: counted where they are made, by every process, and summed when it asks."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from service import together

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_mine = CollectorRegistry()
_pictures = Counter("fovea_pictures", "Pictures in answers of classify and its like", ["outcome"], registry=_mine)
_problems = Counter("fovea_problems", "Errors answered", ["status", "code"], registry=_mine)
_seconds = Histogram(
    "fovea_answer_seconds",
    "Of requests with pictures: whole, from their bytes to what is said of them, and the parts of it",
    ["part"],
    buckets=SECONDS,
    registry=_mine,
)
_classified, _refused = (_pictures.labels(outcome) for outcome in ("classified", "refused"))
_whole, _decode, _queue, _model = (_seconds.labels(part) for part in ("whole", "decode", "queue", "model"))


def answered(pictures: int, refused: int, seconds: float, decode_ms: float, waited: tuple[float, float] | None) -> None:
    """One request; `waited` are the milliseconds in the queue and in the network, where it came to that."""
    _classified.inc(pictures - refused)
    _refused.inc(refused)
    _whole.observe(seconds)
    _decode.observe(decode_ms / 1000)
    if waited is not None:
        _queue.observe(waited[0] / 1000)
        _model.observe(waited[1] / 1000)


def problem(status: int, code: str) -> None:
    _problems.labels(str(status), code).inc()


def text() -> bytes:
    """Prometheus' format, of all processes that serve together."""
    if not together.counted():
        return generate_latest(_mine)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
