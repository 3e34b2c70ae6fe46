"""Layer selection as published: accuracy on CIFAR-100 by how many layers are kept, and scores without training.

The numbers are those that the authors of TransRate print (Huang et al., ICML 2022, arXiv:2106.09362; the file
`layer_selection.py` of github.com/Long-Kai/TransRate). The first of each row keeps all layers, each next one drops one
more block.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One source and network."""

    name: str
    accuracy: tuple[float, ...]
    lfc: tuple[float, ...]
    h_score: tuple[float, ...]
    logme: tuple[float, ...]


CASES = (
    Case(
        "ImageNet, ResNet-18",
        (0.8158, 0.8005, 0.7681, 0.7479),
        (0.2061, 0.2778, 0.1803, 0.2245),
        (24.047, 21.9933, 14.0985, 12.2865),
        (1.0126, 0.9995, 0.9564, 0.9455),
    ),
    Case(
        "Caltech-101, ResNet-18",
        (0.8115, 0.7985, 0.7659, 0.7457),
        (0.1818, 0.1262, 0.0703, 0.0701),
        (12.1642, 13.0729, 10.1815, 9.7586),
        (0.9399, 0.945, 0.9342, 0.9316),
    ),
    Case(
        "Caltech-256, ResNet-18",
        (0.8114, 0.8017, 0.7674, 0.7490),
        (0.1314, 0.0702, 0.0439, 0.0448),
        (8.8752, 10.6875, 9.1852, 9.4428),
        (0.9224, 0.9324, 0.9289, 0.9300),
    ),
    Case(
        "SUN397, ResNet-18",
        (0.8008, 0.7903, 0.7643, 0.7453),
        (0.0963, 0.0579, 0.0480, 0.0513),
        (9.1715, 10.5121, 8.7682, 8.6996),
        (0.9235, 0.9304, 0.9262, 0.9257),
    ),
    Case(
        "SVHN, ResNet-20",
        (0.4939, 0.4983, 0.4965, 0.511, 0.5091, 0.508),
        (0.0319, 0.0279, 0.0721, 0.022, 0.0319, 0.0647),
        (3.0115, 3.6555, 4.0529, 3.0631, 3.11, 2.952),
        (0.9013, 0.9043, 0.9065, 0.9026, 0.9027, 0.9019),
    ),
    Case(
        "CIFAR-10, ResNet-20",
        (0.5412, 0.5476, 0.5447, 0.5391, 0.5414, 0.5428),
        (0.1704, 0.1523, 0.1977, 0.0962, 0.1048, 0.142),
        (5.5182, 5.8830, 6.0494, 4.1724, 3.9870, 3.8021),
        (0.9142, 0.9165, 0.9172, 0.9082, 0.9071, 0.9061),
    ),
    Case(
        "ImageNet, ResNet-34",
        (0.8391, 0.8406, 0.8348, 0.8157, 0.801, 0.7835, 0.7666, 0.7604, 0.7580),
        (0.2293, 0.3073, 0.3274, 0.1521, 0.1611, 0.1465, 0.1854, 0.1717, 0.1663),
        (27.5055, 26.6508, 24.8302, 16.5587, 15.8265, 14.8158, 13.8373, 12.7348, 11.6754),
        (1.0356, 1.0306, 1.0173, 0.9714, 0.9670, 0.9607, 0.9549, 0.9483, 0.9420),
    ),
)
