"""The arithmetic that refuses networks and the code that builds them agree."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torchvision.models import get_model, get_model_weights

from service.auto import DatasetFacts, explained, resolve
from service.cost import Room
from service.errors import InvalidValue
from service.inference.torch_program import load
from service.layers import DEEPEST, LayersNetwork, shapes
from service.networks import NETWORKS
from service.settings import Settings
from service.spec import TrainSpec
from workers.training import export
from workers.training.networks import ACTIVATIONS, build

FACTS = DatasetFacts(1000, 3, 32, grey=False)
activation = st.sampled_from([None, *ACTIVATIONS])
bias = st.sampled_from([None, True, False])
layer = st.one_of(
    st.fixed_dictionaries(
        {
            "conv": st.fixed_dictionaries(
                {"filters": st.integers(1, 8), "kernel": st.integers(1, 5), "stride": st.integers(1, 3)},
                optional={
                    "padding": st.one_of(st.just("same"), st.integers(0, 3)),
                    "batch_norm": st.booleans(),
                    "bias": bias,
                    "activation": activation,
                },
            )
        }
    ),
    st.fixed_dictionaries(
        {
            "depthwise_conv": st.fixed_dictionaries(
                {"kernel": st.integers(1, 4), "stride": st.integers(1, 3), "multiplier": st.integers(1, 2)},
                optional={
                    "padding": st.integers(0, 2),
                    "batch_norm": st.booleans(),
                    "bias": bias,
                    "activation": activation,
                },
            )
        }
    ),
    st.fixed_dictionaries({"max_pool": st.integers(1, 4)}),
    st.fixed_dictionaries(
        {"avg_pool": st.fixed_dictionaries({"size": st.integers(1, 4), "stride": st.integers(1, 3)})}
    ),
    st.fixed_dictionaries(
        {"dense": st.fixed_dictionaries({"units": st.integers(1, 9), "batch_norm": st.booleans(), "bias": bias})}
    ),
    st.sampled_from([{"batch_norm": {}}, {"flatten": {}}, {"global_avg_pool": {}}, {"dropout": {"p": 0.3}}]),
    st.fixed_dictionaries({"activation": st.sampled_from(list(ACTIVATIONS))}),
)
residual = st.fixed_dictionaries(
    {"residual": st.fixed_dictionaries({"layers": st.lists(layer, min_size=1, max_size=3), "activation": activation})}
)
layer = st.one_of(layer, residual)


def test_what_must_fit_are_weights_and_on_a_processor_the_activations_of_a_part() -> None:
    wide = {"layers": [{"conv": {"filters": 64}}, {"global_avg_pool": {}}]}
    asked = TrainSpec.model_validate({"network": wide, "image_size": 224, "batch_size": 1024, "epochs": 1})
    with pytest.raises(InvalidValue, match="network_too_large"):
        resolve(asked, FACTS, Room(2**30))
    assert resolve(asked, FACTS, Room(2**30, on_card=True))["batch_size"] == 1024
    heavy = {"layers": [{"flatten": {}}, {"dense": {"units": 65536}}]}
    asked = TrainSpec.model_validate({"network": heavy, "image_size": 32, "batch_size": 8, "epochs": 1})
    with pytest.raises(InvalidValue, match="network_too_large"):
        resolve(asked, FACTS, Room(2**30, on_card=True))
    parts = {"network": wide, "image_size": 224, "batch_size": 1024, "epochs": 1, "optimizer": {"accumulate": 64}}
    assert resolve(TrainSpec.model_validate(parts), FACTS, Room(2**30))["optimizer"]["accumulate"] == 64
    assert Room.of(Settings(device="cuda")) == Room(Room.machine().bytes, on_card=True)
    assert Room.of(Settings(device="cpu", max_training_memory_bytes=5)) == Room(5)


@settings(max_examples=300, deadline=None)
@given(st.lists(layer, min_size=1, max_size=6), st.integers(8, 20))
def test_every_accepted_list_of_layers_builds_and_runs_with_the_shapes_foretold(layers: list, side: int) -> None:
    spec = LayersNetwork.model_validate({"layers": layers})
    try:
        rows = shapes(spec, side, 4)
    except InvalidValue:
        return
    network = build(spec.model_dump(mode="json"), side, 4)
    assert sum(parameter.numel() for parameter in network.parameters()) == sum(row.parameters for row in rows)
    assert network(torch.zeros(2, 3, side, side)).shape == (2, 4)


def nested(blocks: int) -> dict[str, Any]:
    layer: dict[str, Any] = {"conv": {"filters": 3}}
    for _ in range(blocks):
        layer = {"residual": {"layers": [layer]}}
    return {"layers": [layer]}


def test_the_deepest_network_is_resolved_and_exported() -> None:
    spec = resolve(TrainSpec.model_validate({"network": nested(DEEPEST), "image_size": 8}), FACTS)
    assert spec["optimizer"]["name"] == "adamw"
    export.export_program(export.Classifier(build(spec["network"], 8, 3).eval()), 8)


@pytest.mark.parametrize("blocks", [DEEPEST + 1, 64, 100, 300])
def test_deeper_networks_are_refused_with_the_first_block_that_is_too_deep(blocks: int) -> None:
    with pytest.raises(ValidationError, match="nested more than 16 deep") as caught:
        TrainSpec.model_validate({"network": nested(blocks)})
    assert caught.value.errors()[0]["loc"].count("residual") == DEEPEST + 1
    LayersNetwork.model_validate(nested(DEEPEST))  # the refusal has left nothing behind


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_of_named_networks_tells_the_truth(name: str) -> None:
    meta = next(iter(get_model_weights(name))).meta
    assert NETWORKS[name].parameters == meta["num_params"]
    assert NETWORKS[name].giga_multiply_adds == round(meta["_ops"], 2)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf", "shufflenet_v2_x0_5"],
)
def test_a_named_network_learns_a_step_and_its_export_answers_alike(name: str) -> None:
    network = build(name, 64, 3)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    classifier = export.Classifier(network.eval())
    program = load(export.export_program(classifier, 64), "cpu", 2)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    with torch.inference_mode():
        trained = classifier(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()).numpy()
    assert export.certify(trained, program(pixels))["passed"]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_0", "shufflenet_v2_x0_5"])
def test_a_named_network_runs_at_its_smallest_size(name: str) -> None:
    side = NETWORKS[name].smallest
    assert get_model(name, num_classes=3).eval()(torch.zeros(1, 3, side, side)).shape == (1, 3)


def test_auto_chooses_by_the_pictures_the_time_and_the_speed_and_says_why() -> None:
    spec = TrainSpec()
    small, reasons = explained(spec, DatasetFacts(1200, 10, 28, grey=True), gflops=40)
    assert (small["network"], small["image_size"]) == ("compact", 32)
    assert small["augment"]["horizontal_flip"] is False
    assert set(reasons) >= {
        "network",
        "image_size",
        "batch_size",
        "epochs",
        "optimizer.lr",
        "schedule",
        "augment",
        "ema",
    }
    photos = DatasetFacts(1200, 10, 400, grey=False, imbalance=5.0)
    slow, quick = (resolve(spec, photos, gflops=gflops) for gflops in (40, 40_000))
    assert slow["image_size"] < quick["image_size"]
    assert quick["loss"]["class_weights"] == "balanced"
    hurried = resolve(spec, photos, budget_seconds=30, gflops=40)
    assert hurried["image_size"] < slow["image_size"]
    assert hurried["epochs"] == quick["epochs"]  # the run finds out how many fit: a guess would leave some of it unused
    deep = {"layers": [{"conv": {"filters": 4}}, *[{"max_pool": 2}] * 6]}  # impossible at 32 and 48 px
    assert resolve(TrainSpec.model_validate({"network": deep}), DatasetFacts(99, 3, 28, grey=False))["image_size"] == 64
    textbook = resolve(TrainSpec(network="classic"), photos)
    assert textbook["optimizer"]["name"] == "adam"
    assert textbook["loss"]["label_smoothing"] == 0.0
    assert textbook["optimizer"]["lr"] == 1e-3


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"progressive": {"start": 0.5}, "network": "classic"}, "/spec/progressive"),
        ({"initial_weights": "pretrained", "network": "compact"}, "/spec/initial_weights"),
        ({"network": "alexnet", "image_size": 32}, "/spec/image_size"),
        ({"network": "classic", "transfer": {"head_epochs": 1000}}, "/spec/transfer"),
        ({"schedule": {"name": "one_cycle", "warmup": 0.4}}, "/spec/schedule/warmup"),
        ({"network": "vgg16_bn", "batch_size": 8192, "image_size": 512}, "/spec/network"),
    ],
)
def test_what_cannot_be_is_refused_with_the_field_that_says_so(changes: dict, param: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        resolve(TrainSpec.model_validate(changes), DatasetFacts(1000, 3, 100, grey=False), Room(2**33))
    assert caught.value.param == param
