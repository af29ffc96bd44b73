"""The networks of the case study, for one gray channel, and their files."""

from .layers import NORMS, POOLS
from .resnet import ResNet, resnet9, resnet18
from .small_cnn import SmallCNN, small_cnn
from .trained import ARCHITECTURES, SMALLEST_FILM, ModelSpec, TrainedModel, count_parameters, load_model
from .vgg import VGG16, vgg16

__all__ = [
    "ARCHITECTURES",
    "NORMS",
    "POOLS",
    "SMALLEST_FILM",
    "VGG16",
    "ModelSpec",
    "ResNet",
    "SmallCNN",
    "TrainedModel",
    "count_parameters",
    "load_model",
    "resnet9",
    "resnet18",
    "small_cnn",
    "vgg16",
]  # fmt: skip
