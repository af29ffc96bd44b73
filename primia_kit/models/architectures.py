"""The architectures by name: functions of (classes, norm, pool, in_channels)."""

from __future__ import annotations

from .densenet import densenet121
from .efficientnet import efficientnet_lite0, efficientnet_lite0_blocks
from .mobilenet import mobilenet_v2
from .resnet import resnet9, resnet18, resnet34, resnet50
from .small_cnn import small_cnn
from .unet import unet
from .vgg import vgg16

CLASSIFIERS = {  # [n, in_channels, size, size] -> logits [n, classes]
    "resnet9": resnet9,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "vgg16": vgg16,
    "densenet121": densenet121,
    "mobilenet_v2": mobilenet_v2,
    "efficientnet_lite0": efficientnet_lite0,
    "efficientnet_lite0_blocks": efficientnet_lite0_blocks,
    "small_cnn": small_cnn,
}
SEGMENTERS = {"unet": unet}  # [n, in_channels, size, size] -> logits [n, classes, size, size]
ARCHITECTURES = {**CLASSIFIERS, **SEGMENTERS}

SMALLEST_FILM = {**dict.fromkeys(ARCHITECTURES, 32), "small_cnn": 16, "unet": 16}  # pixels a side
SIZE_STEP = {**dict.fromkeys(ARCHITECTURES, 1), "unet": 16}  # a film's side is a multiple of it
