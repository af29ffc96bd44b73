"""torch's modules as calls of its functions, and what to use instead of those that have no encrypted form."""

from __future__ import annotations

from torch import nn

_CONV = {name: name for name in ("weight", "bias", "stride", "padding", "dilation", "groups")}
_POOL = {name: name for name in ("kernel_size", "stride", "padding", "ceil_mode")}
_NORM = {name: name for name in ("running_mean", "running_var", "weight", "bias", "eps")}
_UPSAMPLE = {name: name for name in ("size", "scale_factor", "mode", "align_corners")}
# type of module -> (operator, argument -> the module's attribute)
MODULES: dict[type[nn.Module], tuple[str, dict[str, str]]] = {
    nn.Conv2d: ("conv2d", {**_CONV, "padding_mode": "padding_mode"}),
    nn.ConvTranspose2d: ("conv_transpose2d", {**_CONV, "output_padding": "output_padding"}),
    nn.Linear: ("linear", {"weight": "weight", "bias": "bias"}),
    nn.BatchNorm1d: ("batch_norm", _NORM),
    nn.BatchNorm2d: ("batch_norm", _NORM),
    nn.ReLU: ("relu", {}),
    nn.ReLU6: ("relu6", {}),
    nn.Hardtanh: ("hardtanh", {"min_val": "min_val", "max_val": "max_val"}),
    nn.MaxPool2d: ("max_pool2d", {**_POOL, "dilation": "dilation"}),
    nn.AvgPool2d: (
        "avg_pool2d",
        {**_POOL, "count_include_pad": "count_include_pad", "divisor_override": "divisor_override"},
    ),
    nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", {"output_size": "output_size"}),
    nn.Upsample: ("interpolate", _UPSAMPLE),
    nn.UpsamplingNearest2d: ("interpolate", _UPSAMPLE),
    nn.UpsamplingBilinear2d: ("interpolate", _UPSAMPLE),
    nn.ZeroPad2d: ("pad", {"pad": "padding"}),
    nn.Flatten: ("flatten", {"start_dim": "start_dim"}),
    nn.Dropout: ("identity", {}),
    nn.Dropout2d: ("identity", {}),
    nn.Identity: ("identity", {}),
}
_STATISTICS = "normalises by statistics of secret values: use BatchNorm2d, whose statistics are fixed, or no norm"
_SMOOTH = "has no protocol here: use ReLU or ReLU6"
_SOFTMAX = "isn't computed under encryption: leave it out, the data owner applies it to the answer (reveal='probabilities')"
_SIGMOID = "isn't computed under encryption: leave it out, take reveal='logits', and apply it to the answer yourself"
INSTEAD = {
    **dict.fromkeys(("GroupNorm", "group_norm", "LayerNorm", "layer_norm", "InstanceNorm2d", "instance_norm"), _STATISTICS),
    **dict.fromkeys(("SiLU", "silu", "GELU", "gelu", "Hardswish", "hardswish", "ELU", "elu", "Tanh", "tanh", "Mish"), _SMOOTH),
    **dict.fromkeys(("LeakyReLU", "leaky_relu", "PReLU", "prelu", "Softplus", "softplus", "CELU", "SELU"), _SMOOTH),
    **dict.fromkeys(("Softmax", "softmax", "LogSoftmax", "log_softmax", "Softmax2d"), _SOFTMAX),
    **dict.fromkeys(("Sigmoid", "sigmoid", "LogSigmoid", "logsigmoid"), _SIGMOID),
    "AdaptiveMaxPool2d": "has windows of several sizes: use MaxPool2d",
    "ReflectionPad2d": "pads with other than zeros: use ZeroPad2d, or a convolution's padding",
    "ReplicationPad2d": "pads with other than zeros: use ZeroPad2d, or a convolution's padding",
    "mul": "multiplies two secret values, or by a tensor: use a 1 x 1 convolution, or a number",
    "LPPool2d": "raises secret values to a power: use AvgPool2d or MaxPool2d",
}
