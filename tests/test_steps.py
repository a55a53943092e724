"""What makes a step faster changes nothing of what the step does."""

import copy
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from service.layers import LayersNetwork
from tests.test_training import CLASSES, finish, interrupted, make_run, make_spec
from workers.training import compiling, convolution, side_by_side
from workers.training.convolution import Conv2d, lighten
from workers.training.data import Split, one_ahead
from workers.training.networks import ACTIVATIONS, MONOTONE, build
from workers.training.optim import optimizer
from workers.training.state import start

SHAPES = [
    (kernel, stride, padding, side, groups)
    for kernel, stride, padding, side, groups in itertools.product((1, 3, 5), (1, 2), (0, 1, 2), (1, 2, 3, 7), (1, 2))
    if side + 2 * padding >= kernel
]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "padding", "side", "groups"), SHAPES)
def test_a_convolution_in_other_products_is_the_same_convolution(
    kernel: int, stride: int, padding: int, side: int, groups: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "ENOUGH", 0)
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, kernel, stride, padding, groups=groups).to(memory_format=torch.channels_last)
    light = lighten(copy.deepcopy(plain)).train(training)
    images = torch.randn(5, 4, side, side).to(memory_format=torch.channels_last)
    answers = []
    for layer in (plain, light):
        given = images.clone().requires_grad_()
        answer = layer(given)
        answer.square().sum().backward()
        answers.append((answer, given.grad, layer.weight.grad, layer.bias.grad))
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other)
    assert answers[1][0].is_contiguous(memory_format=torch.channels_last)  # or the next layer would reorder it


def test_a_network_of_few_places_learns_the_same_in_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 too, whose products are rounded at other places."""
    monkeypatch.setattr(convolution, "ENOUGH", 0)
    monkeypatch.setattr(side_by_side, "has_amx", lambda: False)  # other roundings in the layers before
    torch.manual_seed(0)
    taken = products_of(monkeypatch)
    network = build("resnet18", 64, 3).to(memory_format=torch.channels_last)
    images = torch.rand(16, 3, 64, 64).to(memory_format=torch.channels_last)
    gradients = []
    for ways in ("products", "convolutions"):
        if ways == "convolutions":
            assert taken == {"_products": 4, "_one_tap": 3}
            monkeypatch.setattr(Conv2d, "_may_multiply", lambda *_: False)
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(images).float().square().mean()
        loss.backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    assert taken.total() == 7
    for one, other in zip(*gradients, strict=True):
        assert (one - other).norm() <= 0.05 * other.norm()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "side"), [(3, 1, 4), (3, 2, 8), (3, 2, 7), (5, 3, 7), (7, 1, 3)])
def test_pictures_side_by_side_are_convolved_as_each_by_itself(
    kernel: int, stride: int, side: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "has_amx", lambda: True)
    monkeypatch.setattr(side_by_side, "ENOUGH", 0)
    laid = calls_of(monkeypatch, side_by_side, "convolve")
    torch.manual_seed(0)
    plain = nn.Conv2d(8, 6, kernel, stride, kernel // 2, bias=bias).to(memory_format=torch.channels_last)
    light = lighten(copy.deepcopy(plain))
    images = torch.randn(12, 8, side, side).to(memory_format=torch.channels_last)
    answers = []
    for layer in (plain, light):
        given = images.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            answer = layer(given)
        answer.float().square().sum().backward()
        answers.append((answer, given.grad, *(parameter.grad for parameter in layer.parameters())))
    assert laid.total() == 1
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=0.01, atol=0.01 * float(one.detach().abs().max()))
        assert one.stride() == other.stride()  # or the optimiser would copy it


@pytest.mark.parametrize(
    "why", ["no AMX", "fp32", "pictures that make no rows", "many places", "not centred", "one tap", "little to do"]
)
def test_elsewhere_each_picture_is_a_convolution_of_its_own(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "has_amx", lambda: why != "no AMX")
    monkeypatch.setattr(side_by_side, "ENOUGH", 10**6 if why == "little to do" else 0)
    layer = Conv2d(8, 6, 1 if why == "one tap" else 3, padding=0 if why in ("one tap", "not centred") else 1)
    layer = layer.to(memory_format=torch.channels_last)
    side = 9 if why == "many places" else 6
    laid = calls_of(monkeypatch, side_by_side, "convolve")
    images = torch.randn(6 if why == "pictures that make no rows" else 8, 8, side, side)
    with torch.autocast("cpu", torch.bfloat16, enabled=why != "fp32"):
        layer(images.to(memory_format=torch.channels_last))
    assert not laid


def products_of(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often layers are products, by kind."""
    return calls_of(monkeypatch, Conv2d, "_products", "_one_tap")


def calls_of(monkeypatch: pytest.MonkeyPatch, where: object, *names: str) -> Counter[str]:
    """How often each is called from now on."""
    taken: Counter[str] = Counter()
    for name in names:
        whole = getattr(where, name)

        def counted(*given: Any, name: str = name, whole: Callable[..., torch.Tensor] = whole) -> torch.Tensor:
            taken[name] += 1
            return whole(*given)

        monkeypatch.setattr(where, name, counted)
    return taken


def test_narrow_layers_other_layouts_and_what_is_exported_are_convolved(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = products_of(monkeypatch)
    images = torch.rand(8, 3, 64, 64)
    last = torch.channels_last
    build("resnet18", 64, 3).to(memory_format=last)(images.to(memory_format=last))  # 8 pictures of 512 x 512
    assert not taken
    monkeypatch.setattr(convolution, "ENOUGH", 0)
    build("resnet18", 64, 3)(images)
    build("resnet18", 64, 3).to(memory_format=last).eval()(images.to(memory_format=last))
    assert not taken
    build("resnet18", 32, 3)(torch.rand(16, 3, 32, 32))  # one place lies in every layout
    assert taken == {"_products": 3}


def test_a_network_that_ends_in_one_place_multiplies_less() -> None:
    layer = Conv2d(8, 8, 3, padding=1)
    assert layer._spans(torch.zeros(1, 8, 1, 1)) == [(slice(0, 1), slice(1, 2))]
    assert layer._spans(torch.zeros(1, 8, 2, 2)) == [(slice(0, 2), slice(1, 3)), (slice(0, 2), slice(0, 2))]
    network = build("resnet18", 32, 3)
    assert all(isinstance(module, Conv2d) for module in network.modules() if isinstance(module, nn.Conv2d))
    assert network.state_dict().keys() == _plain_resnet().state_dict().keys()


def _plain_resnet() -> nn.Module:
    from torchvision.models import resnet18

    made: nn.Module = resnet18(num_classes=3)
    return made


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_maximum_before_its_activation_gives_the_same(activation: str) -> None:
    spec = {"layers": [{"conv": {"filters": 5, "activation": activation}}, {"max_pool": 2}]}
    torch.manual_seed(0)
    made = build(LayersNetwork.model_validate(spec).model_dump(mode="json"), 8, 3)
    kinds = [type(module) for module in made]
    assert kinds[:3] == (
        [Conv2d, nn.MaxPool2d, ACTIVATIONS[activation]]
        if issubclass(ACTIVATIONS[activation], MONOTONE)
        else [Conv2d, ACTIVATIONS[activation], nn.MaxPool2d]
    )
    textbook = nn.Sequential(made[0], ACTIVATIONS[activation](), nn.MaxPool2d(2), *list(made)[3:])
    images = torch.randn(4, 3, 8, 8)
    gradients = []
    for network in (made, textbook):
        made.zero_grad()
        answer = network(images)
        answer.square().sum().backward()
        gradients.append((answer.detach(), *(parameter.grad.clone() for parameter in made.parameters())))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "muon"])
def test_optimisers_do_the_same_to_weights_in_either_layout(name: str) -> None:
    spec = {"name": name, "lr": 0.01, "weight_decay": 0.1, "momentum": 0.9, "norm_bias_rate": 1.0}
    torch.manual_seed(0)
    first = (nn.Conv2d(3, 7, 3, bias=False), nn.BatchNorm2d(7), nn.ReLU())
    plain = nn.Sequential(*first, nn.Conv2d(7, 5, 3), nn.Flatten(), nn.Linear(5 * 4 * 4, 2))
    turned = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    for network in (plain, turned):
        made = optimizer(network, spec)
        assert all(one.is_contiguous() for group in made.param_groups for one in group["params"])
        for step in range(3):
            network.zero_grad()
            made.zero_grad()
            network(torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(step))).square().sum().backward()
            made.step()
    for one, other in zip(plain.parameters(), turned.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert not turned[0].weight.is_contiguous()


def test_batches_that_are_fetched_ahead_are_the_same_in_the_same_order() -> None:
    packed = np.random.default_rng(0).integers(0, 255, (20, 4, 4, 3), dtype=np.uint8)
    split = Split.of(packed, np.arange(5, 20), np.zeros(15, dtype=np.int64), "cpu")
    chosen = torch.randperm(15, generator=torch.Generator().manual_seed(0)).split(4)
    asked, second = [], threading.Event()

    def images(rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows)
        if len(asked) == 2:
            second.set()
        return split.images(rows)

    ahead = one_ahead(images, chosen)
    first = next(ahead)
    assert second.wait(10)  # the next is fetched before it is asked for
    for one, rows in zip([first, *ahead], chosen, strict=True):
        assert torch.equal(one, split.images(rows))
    assert list(one_ahead(images, [])) == []


def test_a_compiled_run_resumes_to_the_bit() -> None:
    """On a CPU, where no job compiles: the way is the same as on a GPU."""
    plan = {"precision": "fp32", "channels_last": False, "compiled": True}
    spec = make_spec(epochs=2)
    run = make_run(spec)
    calm, _ = finish(start(spec, CLASSES, 1, "cpu", plan), run)
    resumed, _ = finish(interrupted(spec, run, plan, 5), run)
    assert resumed == calm
    eager = start(spec, CLASSES, 1, "cpu", {**plan, "compiled": False})
    assert eager.network.state_dict().keys() == start(spec, CLASSES, 1, "cpu", plan).network.state_dict().keys()


def test_compiling_is_tried_in_long_jobs_and_used_where_it_pays() -> None:
    assert not compiling.may_pay(0.01, 1_000)
    assert compiling.may_pay(0.01, 100_000)
    found = {"setup": 30.0, "step": 0.008}
    assert not compiling.pays(found, 0.01, 10_000)
    assert compiling.pays(found, 0.01, 20_000)
    assert not compiling.pays({"error": "no compiler"}, 0.01, 10**9)

    def broken() -> float:
        raise RuntimeError("no compiler")

    assert compiling.measure(broken) == {"error": "RuntimeError: no compiler"}
    assert compiling.measure(lambda: 0.5)["step"] == 0.5
