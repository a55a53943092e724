"""The named networks: what each costs, known without importing an engine.

Parameters and multiply-adds are those of torchvision 0.29 with 1000 classes at 224 px; `smallest` is the least image
size (px) at which every layer still sees a picture. A test holds the table against the real networks.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class NamedNetwork:
    parameters: int
    giga_multiply_adds: float
    smallest: int = 32


NETWORKS: dict[str, NamedNetwork] = {
    "alexnet": NamedNetwork(61_100_840, 0.71, smallest=64),
    "convnext_tiny": NamedNetwork(28_589_128, 4.46),
    "convnext_small": NamedNetwork(50_223_688, 8.68),
    "densenet121": NamedNetwork(7_978_856, 2.83),
    "densenet169": NamedNetwork(14_149_480, 3.36),
    "efficientnet_b0": NamedNetwork(5_288_548, 0.39),
    "efficientnet_b1": NamedNetwork(7_794_184, 0.69),
    "efficientnet_b2": NamedNetwork(9_109_994, 1.09),
    "efficientnet_b3": NamedNetwork(12_233_232, 1.83),
    "efficientnet_v2_s": NamedNetwork(21_458_488, 8.37),
    "mnasnet0_5": NamedNetwork(2_218_512, 0.10),
    "mnasnet1_0": NamedNetwork(4_383_312, 0.31),
    "mobilenet_v2": NamedNetwork(3_504_872, 0.30),
    "mobilenet_v3_large": NamedNetwork(5_483_032, 0.22),
    "mobilenet_v3_small": NamedNetwork(2_542_856, 0.06),
    "regnet_x_400mf": NamedNetwork(5_495_976, 0.41),
    "regnet_x_800mf": NamedNetwork(7_259_656, 0.80),
    "regnet_y_400mf": NamedNetwork(4_344_144, 0.40),
    "regnet_y_800mf": NamedNetwork(6_432_512, 0.83),
    "regnet_y_1_6gf": NamedNetwork(11_202_430, 1.61),
    "resnet18": NamedNetwork(11_689_512, 1.81),
    "resnet34": NamedNetwork(21_797_672, 3.66),
    "resnet50": NamedNetwork(25_557_032, 4.09),
    "resnet101": NamedNetwork(44_549_160, 7.80),
    "resnext50_32x4d": NamedNetwork(25_028_904, 4.23),
    "shufflenet_v2_x0_5": NamedNetwork(1_366_792, 0.04),
    "shufflenet_v2_x1_0": NamedNetwork(2_278_604, 0.14),
    "squeezenet1_0": NamedNetwork(1_248_424, 0.82),
    "squeezenet1_1": NamedNetwork(1_235_496, 0.35),
    "vgg11": NamedNetwork(132_863_336, 7.61),
    "vgg11_bn": NamedNetwork(132_868_840, 7.61),
    "vgg13_bn": NamedNetwork(133_053_736, 11.31),
    "vgg16_bn": NamedNetwork(138_365_992, 15.47),
    "wide_resnet50_2": NamedNetwork(68_883_240, 11.40),
}


def side_while_growing(progressive: dict[str, Any], full: int, network: Any, done: float) -> int:
    """Side in pixels, a multiple of 8, when this share of the steps is done; what a named network needs at least."""
    smallest = NETWORKS[network].smallest if isinstance(network, str) and network in NETWORKS else 16
    share: float = progressive["start"] + (1 - progressive["start"]) * min(done / progressive["until"], 1)
    return min(max(round(full * share / 8) * 8, smallest), full)


def work_while_growing(
    progressive: dict[str, Any], full: int, network: Any, begin: float = 0.0, end: float = 1.0
) -> float:
    """Mean work of a step between these shares of all steps, as a share of one with whole pictures."""
    shares = [begin + (end - begin) * (k + 0.5) / 50 for k in range(50)]
    sides = [
        full if done >= progressive["until"] else side_while_growing(progressive, full, network, done)
        for done in shares
    ]
    return sum((side / full) ** 2 for side in sides) / len(sides)
