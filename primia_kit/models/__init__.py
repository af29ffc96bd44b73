"""The networks, for one gray channel unless told otherwise, and their files.

All are made of layers that encrypted inference can carry, and `torch.fx.symbolic_trace` reads them.
"""

from .architectures import ARCHITECTURES, CLASSIFIERS, SEGMENTERS, SIZE_STEP, SMALLEST_FILM
from .densenet import DenseNet, densenet121
from .efficientnet import BlockFeatures, EfficientNetLite, efficientnet_lite0, efficientnet_lite0_blocks
from .layers import FEATURE_NORMS, NORMS, POOLS, CentredLinear, NormalisedLinear
from .mobilenet import MobileNetV2, mobilenet_v2
from .pretrained import feature_extractor, imagenet_weights, last_layer, pretrained
from .public_features import fit_public_features
from .resnet import ResNet, resnet9, resnet18, resnet34, resnet50
from .small_cnn import SmallCNN, small_cnn
from .trained import ModelSpec, TrainedModel, count_parameters, load_model, weights_sha256
from .unet import UPSAMPLINGS, UNet, unet
from .vgg import VGG16, vgg16

__all__ = [
    "ARCHITECTURES",
    "CLASSIFIERS",
    "FEATURE_NORMS",
    "NORMS",
    "POOLS",
    "SEGMENTERS",
    "SIZE_STEP",
    "SMALLEST_FILM",
    "UPSAMPLINGS",
    "VGG16",
    "BlockFeatures",
    "CentredLinear",
    "DenseNet",
    "EfficientNetLite",
    "MobileNetV2",
    "ModelSpec",
    "NormalisedLinear",
    "ResNet",
    "SmallCNN",
    "TrainedModel",
    "UNet",
    "count_parameters",
    "densenet121",
    "efficientnet_lite0",
    "efficientnet_lite0_blocks",
    "feature_extractor",
    "fit_public_features",
    "imagenet_weights",
    "last_layer",
    "load_model",
    "mobilenet_v2",
    "pretrained",
    "resnet9",
    "resnet18",
    "resnet34",
    "resnet50",
    "small_cnn",
    "unet",
    "vgg16",
    "weights_sha256",
]  # fmt: skip
