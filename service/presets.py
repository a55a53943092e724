"""Networks of ours, in the language of layers, by the name that a spec gives."""

from typing import Any

from service.layers import LayersNetwork

CLASSIC = LayersNetwork.model_validate(
    {
        "layers": [
            {"conv": {"filters": 32, "activation": "relu"}},
            {"max_pool": 2},
            {"conv": {"filters": 64, "activation": "relu"}},
            {"max_pool": 2},
            {"conv": {"filters": 128, "activation": "relu"}},
            {"max_pool": 2},
            {"flatten": {}},
            {"dense": {"units": 512, "activation": "relu"}},
        ]
    }
)
"""The textbook network: three convolutions with pools, one dense layer, ReLU."""


def _normalised(filters: int, **more: Any) -> dict[str, Any]:
    return {"conv": {"filters": filters, "batch_norm": True, "activation": "relu", **more}}


def _block(filters: int) -> dict[str, Any]:
    return {"residual": {"layers": [_normalised(filters), _normalised(filters)]}}


COMPACT = LayersNetwork.model_validate(
    {
        "layers": [
            _normalised(32),
            {"max_pool": 2},
            _normalised(64),
            {"max_pool": 2},
            _block(64),
            _normalised(128),
            {"max_pool": 2},
            _block(128),
            {"global_avg_pool": {}},
        ]
    }
)
"""A small residual network with batch normalisation, for pictures of any size: twice the work of `classic` at 32 px."""


def _pooled(filters: int) -> list[dict[str, Any]]:
    """A convolution, a pool, and only then what is done to every number: a quarter as many. The normalisation would
    take off again what a bias added."""
    conv = {"conv": {"filters": filters, "bias": False}}
    return [conv, {"max_pool": 2}, {"batch_norm": {}}, {"activation": "relu"}]


SPEEDRUN = LayersNetwork.model_validate(
    {
        "layers": [
            {"conv": {"filters": 32, "kernel": 4, "stride": 2, "padding": 1, "activation": "relu"}},
            *_pooled(48),
            _normalised(48),
            *_pooled(96),
            _normalised(96),
            {"global_avg_pool": {}},
        ]
    }
)
"""For few epochs on small pictures, with four fifths of the work of `classic`: it halves them in its first layer, whose
filters are to be whitening ones."""

PRESETS = {"classic": CLASSIC, "compact": COMPACT, "speedrun": SPEEDRUN}
