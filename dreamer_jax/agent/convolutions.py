"""Convolutional encoders and decoders of images: V3's, and the strided ones of PlaNet, V1 and V2 (`model.cnn`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.agent.layers import MLP, BlockLinear, Dtype, Linear, NormAct, Style, flatten_stoch, kernel_init
from dreamer_jax.agent.layout import ACCELERATOR, Layout

IMAGE_MULTS = (2, 3, 4, 4)  # V3: channels of the four levels of encoder and decoder, in units of `depth`
IMAGE_FACTOR = 2 ** len(IMAGE_MULTS)
DECODER_BLOCKS = 8
STRIDED_MULTS = (1, 2, 4, 8)  # V1 and V2: channels of the four strided convolutions
STRIDED_KERNELS = (5, 5, 6, 6)  # and the kernels of the four transposed ones, which give 64x64


def unit_images(images: jax.Array, high: tuple[int, ...], dtype: Dtype) -> jax.Array:
    """Images [.., C] of values from 0 to `high`, one number a channel -> [0, 1] in `dtype`."""
    images = images.astype(dtype)
    return images / (255 if set(high) == {255} else jnp.asarray(high, dtype))  # one number: the usual program


class ImageEncoder(nn.Module):
    """Images uint8 [.., H, W, C] -> [.., E]: four times convolution -> 2x2 max-pool -> norm -> activation (V3).

    `high` is the largest value of each channel; None where it is 255 for all.
    Sizes that are no multiple of 16 are padded by repeating the edge.
    """

    depth: int
    style: Style = Style()
    high: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        batch, (height, width, channels) = images.shape[:-3], images.shape[-3:]
        high = self.high or (255,) * channels
        x = unit_images(images.reshape((-1, height, width, channels)), high, self.style.dtype) - 0.5
        x = jnp.pad(x, ((0, 0), (0, -height % IMAGE_FACTOR), (0, -width % IMAGE_FACTOR), (0, 0)), mode="edge")
        for i, mult in enumerate(IMAGE_MULTS):
            x = ImageConv(self.depth * mult, False, self.style.dtype, self.style.layout, name=f"conv{i}")(x)
            rows, height, width, channels = x.shape
            x = x.reshape((rows, height // 2, 2, width // 2, 2, channels)).max((2, 4))
            x = NormAct(self.style, name=f"act{i}")(x)
        return x.reshape((*batch, -1))  # in (H, W, C) order


class ImageDecoder(nn.Module):
    """deter [.., D], stoch of the same state -> images [.., H, W, C] in [0, 1] (V3).

    The smallest map comes from both parts of the latent: a block-diagonal layer on deter, whose blocks become groups of
    channels, plus an MLP on stoch. Then four times nearest-neighbour doubling and a convolution.
    """

    shape: tuple[int, int, int]
    depth: int
    units: int
    style: Style = Style()

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array) -> jax.Array:
        height, width, channels = self.shape
        rows, columns = -(-height // IMAGE_FACTOR), -(-width // IMAGE_FACTOR)
        maps, batch = self.depth * IMAGE_MULTS[-1], deter.shape[:-1]
        dtype, layout = self.style.dtype, self.style.layout
        stoch = flatten_stoch(deter, stoch)
        deter, stoch = deter.reshape((-1, deter.shape[-1])), stoch.reshape((-1, stoch.shape[-1]))

        blocks = BlockLinear(rows * columns * maps, DECODER_BLOCKS, dtype, name="deter_map").by_block(deter)
        x = jnp.concatenate([block.reshape((-1, rows, columns, maps // DECODER_BLOCKS)) for block in blocks], -1)
        y = MLP(1, 2 * self.units, self.style, name="stoch_mlp")(stoch)
        x += Linear(rows * columns * maps, dtype=dtype, name="stoch_map")(y).reshape(x.shape)
        x = NormAct(self.style, name="map_act")(x)
        for i, mult in reversed(tuple(enumerate(IMAGE_MULTS[:-1]))):
            x = ImageConv(self.depth * mult, True, dtype, layout, name=f"conv{i}")(x)
            x = NormAct(self.style, name=f"act{i}")(x)
        x = nn.sigmoid(ImageConv(channels, True, dtype, layout, name="image")(x))
        return x[:, :height, :width].reshape((*batch, *self.shape))


class StridedImageEncoder(nn.Module):
    """Images uint8 [.., 64, 64, C] -> [.., 32 * depth]: four 4x4 convolutions, stride 2, no padding (PlaNet, V1, V2).

    `high` as for `ImageEncoder`.
    """

    depth: int
    style: Style
    high: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        high = self.high or (255,) * images.shape[-1]
        x = unit_images(images.reshape((-1, *images.shape[-3:])), high, self.style.dtype) - 0.5
        for i, mult in enumerate(STRIDED_MULTS):
            x = nn.Conv(
                self.depth * mult,
                (4, 4),
                2,
                padding="VALID",
                dtype=self.style.dtype,
                kernel_init=kernel_init(),
                name=f"conv{i}",
            )(x)
            x = NormAct(self.style, name=f"act{i}")(x)
        return x.reshape((*images.shape[:-3], -1))


class StridedImageDecoder(nn.Module):
    """deter [.., D], stoch of the same state -> images [.., 64, 64, C], not bounded to [0, 1] (PlaNet, V1, V2).

    One dense layer makes a 1x1 map; four transposed convolutions with stride 2 and no padding make the image.
    """

    channels: int
    depth: int
    style: Style

    @nn.compact
    def __call__(self, deter: jax.Array, stoch: jax.Array) -> jax.Array:
        dtype = self.style.dtype
        x = jnp.concatenate([deter.astype(dtype), flatten_stoch(deter, stoch).astype(dtype)], -1)
        x = Linear(32 * self.depth, dtype=dtype, name="map")(x).reshape((-1, 1, 1, 32 * self.depth))
        layers = (*(self.depth * mult for mult in reversed(STRIDED_MULTS[:-1])), self.channels)
        for i, (channels, size) in enumerate(zip(layers, STRIDED_KERNELS, strict=True)):
            x = nn.ConvTranspose(
                channels,
                (size, size),
                (2, 2),
                padding="VALID",
                dtype=dtype,
                kernel_init=kernel_init(in_axis=-1),
                transpose_kernel=True,
                name=f"conv{i}",
            )(x)
            if i + 1 < len(layers):
                x = NormAct(self.style, name=f"act{i}")(x)
        return (x + 0.5).reshape((*deter.shape[:-1], *x.shape[-3:]))


class ImageConv(nn.Module):
    """V3's 5x5 convolution, stride 1, SAME padding, with bias: x [N, H, W, C] -> [N, H, W, channels].

    `doubled` convolves the nearest-neighbour doubling of x instead -> [N, 2H, 2W, channels]. It is never made: under each of
    the four pixels that come from one lie 3x3 pixels of x, so four 3x3 kernels on x give the same with a third of the products.
    """

    channels: int
    doubled: bool = False
    dtype: Dtype = jnp.float32
    layout: Layout = ACCELERATOR

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = self.param("kernel", kernel_init(), (5, 5, x.shape[-1], self.channels)).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.channels,)).astype(self.dtype)
        x = x.astype(self.dtype)
        if not self.doubled:
            return convolve(x, kernel, self.layout) + bias
        # [2, 3, 5]: which of the 3 pixels of x lies under each of the kernel's 5, seen from the even and the odd pixel.
        under = np.array([[[(parity + tap - 2) // 2 + 1 == i for tap in range(5)] for i in range(3)] for parity in range(2)])
        under = under.astype(self.dtype)
        kernels = jnp.einsum("piy,qjx,yxco->ijcpqo", under, under, kernel).reshape((3, 3, x.shape[-1], -1))
        rows, height, width, _ = x.shape
        pixels = convolve(x, kernels, self.layout).reshape((rows, height, width, 2, 2, self.channels))
        return pixels.swapaxes(2, 3).reshape((rows, 2 * height, 2 * width, self.channels)) + bias


def convolve(x: jax.Array, kernel: jax.Array, layout: Layout) -> jax.Array:
    """SAME convolution with stride 1: x [N, H, W, C], kernel [h, w, C, O] -> [N, H, W, O].

    It takes as many images at a time as `layout.images_per_convolution` says.
    """

    def of_images(x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    count = layout.images_per_convolution
    if count is None:
        return of_images(x)
    return jnp.concatenate([of_images(part) for part in jnp.split(x, list(range(count, x.shape[0], count)))])
