"""The networks, for one gray channel unless told otherwise, and their files.

All but those of `CLEAR_ONLY` are made of layers that encrypted inference can carry, and `torch.fx.symbolic_trace` reads them.
"""

from .architectures import ARCHITECTURES, CLASSIFIERS, CLEAR_ONLY, SEGMENTERS, SIZE_STEP, SMALLEST_FILM
from .block_features import BlockFeatures, PublicTransform, lite0_blocks, lite0_components
from .densenet import DenseNet, densenet121
from .efficientnet import EfficientNetLite, efficientnet_lite0
from .layers import FEATURE_NORMS, NORMS, POOLS, NormalisedLinear
from .mobilenet import MobileNetV2, mobilenet_v2
from .pretrained import feature_extractor, imagenet_weights, last_layer, pretrained, public_start
from .resnet import ResNet, resnet9, resnet18, resnet34, resnet50
from .small_cnn import SmallCNN, small_cnn
from .trained import ModelSpec, TrainedModel, count_parameters, load_model, weights_sha256
from .unet import UPSAMPLINGS, UNet, unet
from .vgg import VGG16, vgg16

__all__ = [
    "ARCHITECTURES",
    "CLASSIFIERS",
    "CLEAR_ONLY",
    "FEATURE_NORMS",
    "NORMS",
    "POOLS",
    "SEGMENTERS",
    "SIZE_STEP",
    "SMALLEST_FILM",
    "UPSAMPLINGS",
    "VGG16",
    "BlockFeatures",
    "DenseNet",
    "EfficientNetLite",
    "MobileNetV2",
    "ModelSpec",
    "NormalisedLinear",
    "PublicTransform",
    "ResNet",
    "SmallCNN",
    "TrainedModel",
    "UNet",
    "count_parameters",
    "densenet121",
    "efficientnet_lite0",
    "feature_extractor",
    "imagenet_weights",
    "last_layer",
    "lite0_blocks",
    "lite0_components",
    "load_model",
    "mobilenet_v2",
    "pretrained",
    "public_start",
    "resnet9",
    "resnet18",
    "resnet34",
    "resnet50",
    "small_cnn",
    "unet",
    "vgg16",
    "weights_sha256",
]  # fmt: skip
