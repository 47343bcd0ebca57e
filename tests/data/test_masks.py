"""Masks: files that are read or refused, and the same geometry as their images."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.config import AugmentSpec, Preprocessing
from alexnet.data import augment
from alexnet.data.decode import ImageRefusedError, fit
from alexnet.data.masks import decode_mask, encode_mask, fit_mask, read_mask, voc_palette


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def gif():
    file = io.BytesIO()
    Image.new("P", (4, 4)).save(file, "GIF")
    return file.getvalue()


def test_a_mask_is_read_as_it_was_written_and_its_palette_is_that_of_voc():
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decode_mask(encode_mask(mask)), mask)
    # VOClabelcolormap.m: aeroplane, bicycle, bird, boat, bottle; the border
    expected = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    assert [tuple(row) for row in voc_palette()[:6].tolist()] == expected
    assert tuple(voc_palette()[255].tolist()) == (224, 224, 192)


def test_grey_and_binary_files_hold_classes_too():
    values = np.array([[0, 1], [1, 0]], np.uint8)
    np.testing.assert_array_equal(decode_mask(png(Image.fromarray(values))), values)
    np.testing.assert_array_equal(decode_mask(png(Image.fromarray(values.astype(bool)))), values)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png(Image.new("RGB", (4, 4))), "mask with RGB pixels"),
        (png(Image.fromarray(np.zeros((4, 4), np.uint16))), "mask with I;16 pixels"),
        (png(Image.new("P", (4, 4)))[:-20], "truncated"),
        (gif(), "a mask is a PNG"),
        (b"hello", "not"),
    ],
)
def test_a_file_that_is_no_mask_is_refused_with_the_reason(data, reason):
    with pytest.raises(ImageRefusedError, match=reason):
        decode_mask(data)


def test_a_class_that_does_not_exist_is_refused(tmp_path):
    mask = np.array([[0, 2], [255, 7]], np.uint8)
    (tmp_path / "mask.png").write_bytes(encode_mask(mask))
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png", 8), mask)
    with pytest.raises(ImageRefusedError, match=r"the value 7 in its mask, and there are 3 classes, 0 to 2"):
        read_mask(tmp_path / "mask.png", 3)


@pytest.mark.parametrize("shape", [(30, 30), (30, 50), (50, 30), (64, 90), (17, 40)])
def test_a_mask_is_cut_where_its_image_is(shape):
    """Halves of the image have two colours and two classes: after resizing, they still agree but at their border."""
    for axis in (0, 1):
        mask = np.zeros(shape, np.uint8)
        half = [slice(None), slice(None)]
        half[axis] = slice(shape[axis] // 2, None)
        mask[tuple(half)] = 1
        image = fit(Image.fromarray(mask * 200), 32, 1)[..., 0]
        disagree = (image > 100) != (fit_mask(mask, 32) == 1)
        assert disagree.mean() <= 1 / 32


SPECS = [
    AugmentSpec(flip=True),
    AugmentSpec(crop=24, flip=True),
    AugmentSpec(crop=32, pad=4, flip=True),
    AugmentSpec(random_resized_crop=(0.3, 1.0), crop=32, flip=True),
]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("image_size", [32, 20])
def test_images_and_masks_are_augmented_alike(spec, image_size):
    """The mask itself is the image: a smooth one, so that interpolation hardly matters."""
    side = 32
    y, x = np.mgrid[:side, :side]
    mask = ((y + 2 * x) * 2).astype(np.uint8)
    pixels = torch.from_numpy(np.repeat(mask[None, ..., None], 8, axis=0))
    settings = Preprocessing(1, side, spec.crop or side, image_size, "unit", (0.0,), (1.0,))
    draws = augment.draw(spec, side, 0, 0, np.arange(8), np.arange(8), None)
    packed = torch.from_numpy(augment.pack(draws))
    images = augment.augment_packed(pixels, packed, spec, settings, None)[:, 0]
    masks = augment.augment_masks(pixels[..., 0], packed, spec, settings)
    assert masks.dtype == torch.int64 and masks.shape == images.shape
    assert (images - masks).abs().max() <= 7  # neighbours differ by 2 and 4, a smaller image by more
    if spec.random_resized_crop is None and settings.crop == image_size:
        torch.testing.assert_close(images, masks.float())
    (view,) = augment.views(pixels, settings, None)
    assert (view[:, 0] - augment.view_masks(pixels[..., 0], settings)).abs().max() <= 7
