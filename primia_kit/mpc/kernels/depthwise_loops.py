"""The compiled part of depthwise convolution."""

from numba import njit


@njit(nogil=True, cache=True)
def convolve(x, weights, stride, dilation, mask, out, first, last):
    """Output lines [first, last): x uint64 [N, Hp, Wp, C] padded, weights uint64 [KH, KW, C], out [N, OH, OW, C]."""
    channels = x.shape[3]
    for line in range(first, last):
        image, row = line // out.shape[1], line % out.shape[1]
        for column in range(out.shape[2]):
            total = out[image, row, column]
            for r in range(weights.shape[0]):
                for c in range(weights.shape[1]):
                    pixel = x[image, row * stride[0] + r * dilation[0], column * stride[1] + c * dilation[1]]
                    weight = weights[r, c]
                    if r + c == 0:
                        for i in range(channels):
                            total[i] = pixel[i] * weight[i]
                    else:
                        for i in range(channels):
                            total[i] += pixel[i] * weight[i]
            for i in range(channels):
                total[i] &= mask
