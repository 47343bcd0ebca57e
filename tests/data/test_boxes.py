"""Boxes: checked, cut, and changed together with their images."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet.config import AugmentSpec, Preprocessing
from alexnet.data.augment import LEAST_VISIBLE, augment_boxes, augment_packed, draw, pack, view_boxes, views
from alexnet.data.boxes import PADDING, check_boxes, fit_boxes, padded
from alexnet.data.decode import ImageRefusedError, fit


def boxes(*rows):
    return np.array(rows, np.float32).reshape(-1, 6)


def test_boxes_inside_the_image_stay_as_they_are():
    notes = []
    found = check_boxes([(0, 1, 2, 3.5, 4, 0), (1, 0, 0, 10, 8, 1)], 10, 8, 2, notes)
    np.testing.assert_array_equal(found, boxes((0, 1, 2, 3.5, 4, 0), (1, 0, 0, 10, 8, 1)))
    assert notes == []
    assert check_boxes([], 10, 8, 2, notes).shape == (0, 6)


def test_a_box_over_the_edge_is_cut_and_one_without_area_left_out_with_a_note():
    notes = []
    found = check_boxes([(0, -3, 2, 4, 99, 0), (1, 5, 5, 5, 7, 0)], 10, 8, 2, notes)
    np.testing.assert_array_equal(found, boxes((0, 0, 2, 4, 8, 0)))
    assert notes == ["box that extends beyond the image, cut at the edge", "box without area, left out"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((0, 11, 2, 14, 4, 0), "outside its 10 × 8 pixels"),
        ((0, 1, -9, 3, -1, 0), "outside its 10 × 8 pixels"),
        ((0, 5, 2, 3, 4, 0), "its right edge is left of its left edge"),
        ((0, 1, 2, math.nan, 4, 0), "not finite"),
        ((0, 1, 2, math.inf, 4, 0), "not finite"),
        ((2, 1, 2, 3, 4, 0), "has a box of class 2, and there are 2 classes"),
        ((-1, 1, 2, 3, 4, 0), "has a box of class -1"),
        ((0.5, 1, 2, 3, 4, 0), "has a box of class 0.5"),
    ],
)
def test_a_wrong_box_is_a_reason_to_refuse_the_image(row, reason):
    with pytest.raises(ImageRefusedError, match=reason):
        check_boxes([row], 10, 8, 2, [])


def test_too_many_boxes_are_refused():
    with pytest.raises(ImageRefusedError, match="10,001 boxes, more than 10,000"):
        check_boxes([(0, 0, 0, 1, 1, 0)] * 10_001, 10, 8, 2, [])


def painted(width, height, left, top, right, bottom):
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[top:bottom, left:right] = 255
    return pixels


def extent(values):
    """The box around bright pixels of an image ``(H, W)``, at half of the brightness."""
    rows, columns = np.nonzero(values > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("resize", ["short-side", "warp", "stretch"])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (60, 60), (300, 200)])
def test_a_box_lies_where_its_object_lies_in_the_prepared_image(resize, size):
    width, height = size
    box = (width // 3, height // 4, width // 3 + width // 5, height // 4 + height // 3)
    image = Image.fromarray(painted(width, height, *box))
    prepared = fit(image, 60, 3, resize)
    (row,) = fit_boxes(boxes((0, *box, 0)), size, 60, resize, [])
    np.testing.assert_allclose(row[1:5], extent(prepared[..., 0]), atol=1.0)


def test_a_box_outside_of_the_centre_square_is_left_out_with_a_note():
    notes = []
    found = fit_boxes(boxes((0, 0, 0, 10, 50, 0), (1, 40, 0, 60, 50, 0)), (100, 50), 50, "short-side", notes)
    np.testing.assert_array_equal(found, boxes((1, 15, 0, 35, 50, 0)))
    assert len(notes) == 1 and "outside the prepared image" in notes[0]


def test_rows_are_filled_up_with_no_class():
    found = padded([boxes((1, 0, 0, 2, 2, 0)), boxes(), boxes((0, 1, 1, 3, 3, 0), (1, 0, 0, 2, 2, 1))])
    assert found.shape == (3, 2, 6)
    assert found[:, :, 0].tolist() == [[1, PADDING], [PADDING, PADDING], [0, 1]]
    assert padded([boxes(), boxes()]).shape == (2, 0, 6)


@pytest.mark.parametrize(
    "spec",
    [
        AugmentSpec(crop=60, random_resized_crop=(0.4, 1.0), flip=True),
        AugmentSpec(crop=40, flip=True),
        AugmentSpec(flip=True),
    ],
    ids=["resized", "crop", "flip"],
)
def test_an_augmented_box_lies_where_its_object_lies_in_the_augmented_image(spec):
    side, images = 60, 40
    random = np.random.default_rng(1)
    corners = [(*random.integers(4, 30, 2).tolist(), *random.integers(10, 24, 2).tolist()) for _ in range(images)]
    places = [(left, top, left + wide, top + tall) for left, top, wide, tall in corners]
    pixels = torch.from_numpy(np.stack([painted(side, side, *box) for box in places]))
    rows = torch.tensor([[[1.0, *box, 0.0]] for box in places])
    crop = spec.crop or side
    preprocessing = Preprocessing(3, side, crop, 2 * crop, "unit", (0.0,) * 3, (1.0,) * 3)
    index = np.arange(images)
    packed = torch.from_numpy(pack(draw(spec, side, 0, 3, index, index, None)))
    augmented = augment_packed(pixels, packed, spec, preprocessing, None)
    found = augment_boxes(rows, packed, spec, preprocessing)
    compared = 0
    for image, row in zip(augmented[:, 0].numpy(), found[:, 0].tolist(), strict=True):
        if row[0] == PADDING or row[5]:
            continue
        np.testing.assert_allclose(row[1:5], extent(image), atol=3.0)  # of 2 · crop pixels; half of them is a blur
        compared += 1
    assert compared > images / 2


def test_a_box_that_is_mostly_outside_of_the_crop_is_set_aside():
    spec = AugmentSpec(crop=20)
    preprocessing = Preprocessing(3, 40, 20, 20, "unit", (0.0,) * 3, (1.0,) * 3)
    rows = torch.tensor([[[0.0, 0, 0, 20, 20, 0], [1, 0, 0, 10, 10, 0], [1, 9, 9, 40, 40, 0], [-1, 0, 0, 0, 0, 0]]])
    packed = torch.tensor([[10], [10], [0], [0]])
    found = augment_boxes(rows, packed, spec, preprocessing)[0]
    assert found[:, 0].tolist() == [0, PADDING, 1, PADDING]
    assert found[[0, 2], 5].tolist() == [0.0, 0.0]  # visible are 100 of 400 and 400 of 961 pixels
    assert LEAST_VISIBLE == 0.25
    cut = torch.tensor([[[0.0, 0, 0, 19, 20, 0]]])
    assert augment_boxes(cut, packed, spec, preprocessing)[0, 0, 5] == 1.0  # 90 of 380 pixels are visible


def test_the_boxes_of_a_centre_view_lie_where_its_objects_lie():
    preprocessing = Preprocessing(3, 60, 41, 82, "unit", (0.0,) * 3, (1.0,) * 3)
    box = (20, 15, 44, 31)
    pixels = torch.from_numpy(painted(60, 60, *box))[None]
    image = next(views(pixels, preprocessing, None))[0, 0].numpy()
    found = view_boxes(torch.tensor([[[0.0, *box, 0.0]]]), preprocessing, 60)
    np.testing.assert_allclose(found[0, 0, 1:5], extent(image), atol=1.0)
