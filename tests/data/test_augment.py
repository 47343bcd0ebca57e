"""Stored pixels to views, each part beside another implementation of it: numpy, Pillow or torchvision."""

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision import transforms
from torchvision.transforms import functional as reference

from alexnet.config import AugmentSpec, Preprocessing
from alexnet.core.randomness import derive_key, normal
from alexnet.data.augment import (
    Colours,
    Draws,
    augment,
    centre_window,
    crop_and_resize,
    crop_windows,
    draw,
    resize,
    rotate,
    ten_windows,
    views,
)

COLOURS = Colours(
    np.array([121.78, 37.094, 19.721]),  # cuda-convnet's for ImageNet
    np.array([[-0.5635, -0.5762, -0.5920], [-0.7126, -0.0235, 0.7012], [0.4180, -0.8170, 0.3973]]),
)
INDEX = np.arange(100, 164)
POSITION = np.arange(320, 384)
FIELDS = ("top", "left", "flip", "angle", "colour")


def noise(count, side=16, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def plain(side, crop=None, image_size=None, pixel_normalization="unit", mean=(0.0,) * 3, std=(1.0,) * 3):
    """Preprocessing that leaves pixels as they are unless told otherwise."""
    return Preprocessing(3, side, crop or side, image_size or crop or side, pixel_normalization, mean, std)


def drawn(count, top=0, left=0, flip=False, angle=0.0, colour=None):
    def fill(value, kind):
        return np.broadcast_to(np.asarray(value, kind), (count,)).copy()

    return Draws(fill(top, np.int64), fill(left, np.int64), fill(flip, bool), fill(angle, float), colour)


def as_images(view):
    """``(N, C, S, S)`` → ``(N, S, S, C)`` as numpy."""
    return view.permute(0, 2, 3, 1).numpy()


# Draws

FULL = AugmentSpec(crop=224, flip=True, rotation=10, color_noise="paper")


def full_draws(index=INDEX, position=POSITION, spec=FULL, seed=0, epoch=2):
    return draw(spec, 256, seed, epoch, index, position, COLOURS)


def test_draws_do_not_depend_on_the_batch_or_its_order():
    whole = full_draws()
    order = np.random.default_rng(1).permutation(64)
    shuffled = full_draws(INDEX[order], POSITION)
    single = full_draws(INDEX[7:8], POSITION[:1])
    for name in FIELDS:
        assert np.array_equal(getattr(shuffled, name), getattr(whole, name)[order]), name
        assert np.array_equal(getattr(single, name), getattr(whole, name)[7:8]), name


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 3}, {"index": INDEX + 64}])
def test_draws_depend_on_seed_epoch_and_image(change):
    one, other = full_draws(), full_draws(**change)
    for name in FIELDS:
        assert not np.array_equal(getattr(one, name), getattr(other, name)), name


def test_the_parts_of_a_draw_are_independent():
    index = np.arange(20_000)
    draws = full_draws(index, index)
    parts = np.stack([draws.top, draws.left, draws.flip, draws.angle, *(draws.colour @ COLOURS.components.T).T])
    assert np.abs(np.corrcoef(parts) - np.eye(7)).max() < 0.03


def test_offsets_reach_both_ends():
    index = np.arange(20_000)
    draws = full_draws(index, index)
    for offset in (draws.top, draws.left):
        assert np.unique(offset).tolist() == list(range(33))  # 256 − 224 + 1 places, as in 2012
        assert np.bincount(offset).min() > 450  # 606 each
    padded = draw(AugmentSpec(crop=30, pad=4), 32, 0, 0, index, index, None)
    assert np.unique(padded.top).tolist() == list(range(-4, 7))
    whole = draw(AugmentSpec(), 32, 0, 0, index, index, None)
    assert np.unique(whole.top).tolist() == np.unique(whole.left).tolist() == [0]


def test_half_are_flipped_and_angles_span_the_range():
    index = np.arange(20_000)
    draws = full_draws(index, index)
    assert draws.flip.mean() == pytest.approx(0.5, abs=0.015)
    degrees = np.degrees(draws.angle)
    assert (degrees.min(), degrees.max()) == pytest.approx((-10, 10), abs=0.01)
    assert degrees.mean() == pytest.approx(0, abs=0.15)
    assert not full_draws(spec=AugmentSpec(crop=224)).flip.any()


def test_a_group_shares_crop_and_flip_but_neither_colour_nor_angle():
    spec = AugmentSpec(crop=224, crop_group=32, flip=True, rotation=10, color_noise="cuda-convnet")
    index = np.random.default_rng(0).permutation(3200)
    draws = full_draws(index, np.arange(3200), spec)
    crops = np.stack([draws.top, draws.left, draws.flip], axis=1).reshape(100, 32, 3)
    assert (crops == crops[:, :1]).all()
    assert len(np.unique(crops[:, 0], axis=0)) > 90
    assert len(np.unique(draws.angle)) == len(np.unique(draws.colour, axis=0)) == 3200
    # whatever the batches: a batch of 16 that starts amid a group belongs to it
    part = full_draws(index[48:64], np.arange(48, 64), spec)
    assert np.array_equal(part.top, draws.top[48:64])
    assert len(set(part.top)) == 1
    # and the images do not matter
    assert np.array_equal(full_draws(index[::-1], np.arange(3200), spec).top, draws.top)


def test_the_noise_is_either_formula_worked_out_by_hand():
    alpha = 0.2 * normal(derive_key(5, "colour"), 3, INDEX, 3)  # one number for each image and component
    assert np.unique(alpha).size == 3 * 64
    for kind, lengths in (
        ("paper", (COLOURS.deviations / 255) ** 2 * 255),  # Σ p·α·λ, §4.1, with λ on the scale of 0 … 1
        ("cuda-convnet", COLOURS.deviations),  # Σ p·α·√λ
    ):
        draws = full_draws(spec=AugmentSpec(color_noise=kind, color_noise_std=0.2), seed=5, epoch=3)
        for image in range(64):
            shift = sum(COLOURS.components[i] * alpha[i, image] * lengths[i] for i in range(3))
            assert draws.colour[image] == pytest.approx(shift)


def test_the_size_of_the_noise_is_what_the_sources_say():
    index = np.arange(50_000)
    first = COLOURS.components[0] / np.linalg.norm(COLOURS.components[0])
    for kind, levels in (("paper", 5.8), ("cuda-convnet", 12.2)):  # grey levels along the first component
        colour = draw(AugmentSpec(color_noise=kind), 8, 0, 0, index, index, COLOURS).colour
        assert (colour @ first).std() == pytest.approx(levels, rel=0.02)
        assert np.abs((colour @ first).mean()) < 0.1


def test_noise_without_colours_is_an_error():
    with pytest.raises(ValueError, match="principal components"):
        draw(FULL, 256, 0, 0, INDEX, POSITION, None)


# Crop, flip, margin


def test_crops_are_slices_and_flips_are_mirrors():
    pixels = noise(40)
    draws = draw(AugmentSpec(crop=11, flip=True), 16, 0, 0, np.arange(40), np.arange(40), None)
    view = augment(torch.from_numpy(pixels), draws, AugmentSpec(crop=11, flip=True), plain(16, 11), None)
    assert view.shape == (40, 3, 11, 11)
    assert view.dtype == torch.float32
    assert view.is_contiguous(memory_format=torch.channels_last)
    assert 0 < draws.flip.sum() < 40
    for image, result in enumerate(as_images(view)):
        top, left = draws.top[image], draws.left[image]
        expected = pixels[image, top : top + 11, left : left + 11]
        assert np.array_equal(result, expected[:, ::-1] if draws.flip[image] else expected)


@pytest.mark.parametrize("pad", [1, 4, 15])
def test_the_margin_is_numpys_reflection(pad):
    pixels = noise(30)
    spec = AugmentSpec(crop=13, pad=pad, flip=True)
    draws = draw(spec, 16, 0, 0, np.arange(30), np.arange(30), None)
    assert draws.top.min() < 0
    padded = np.pad(pixels, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    for image, result in enumerate(as_images(augment(torch.from_numpy(pixels), draws, spec, plain(16, 13), None))):
        top, left = draws.top[image] + pad, draws.left[image] + pad
        expected = padded[image, top : top + 13, left : left + 13]
        assert np.array_equal(result, expected[:, ::-1] if draws.flip[image] else expected)


def test_grey_images_keep_one_channel():
    pixels = noise(2, channels=1)
    preprocessing = Preprocessing(1, 16, 12, 12, "unit", (0.0,), (255.0,))
    view = augment(torch.from_numpy(pixels), drawn(2, 1, 3), AugmentSpec(crop=12), preprocessing, None)
    assert np.allclose(as_images(view), pixels[:, 1:13, 3:15] / 255, atol=1e-6)


# Rotation


def test_no_rotation_is_the_same_image():
    x = torch.from_numpy(noise(3).astype(np.float32)).permute(0, 3, 1, 2)
    assert torch.allclose(rotate(x, torch.zeros(3)), x, atol=1e-3)


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("side", [15, 16])
def test_a_quarter_turn_is_numpys(quarters, side):
    pixels = noise(2, side)
    x = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)
    turned = rotate(x, torch.full((2,), quarters * torch.pi / 2))
    assert turned.is_contiguous(memory_format=torch.channels_last)
    expected = np.rot90(pixels, quarters, axes=(1, 2))
    assert np.allclose(as_images(turned), expected, atol=0.01)  # the outermost pixels too


def test_any_turn_is_torchvisions_with_zeros_outside():
    x = torch.from_numpy(noise(1, 20).astype(np.float32)).permute(0, 3, 1, 2)
    for degrees in (-30.0, 7.0, 45.0):
        turned = rotate(x, torch.tensor([np.radians(degrees)], dtype=torch.float32))
        bilinear = transforms.InterpolationMode.BILINEAR
        expected = reference.rotate(x, degrees, bilinear, fill=[0.0] * 3)
        inner = np.hypot(*np.mgrid[-9.5:10, -9.5:10]) < 8.5  # torchvision blends the border with its fill otherwise
        assert np.allclose(as_images(turned)[0][inner], as_images(expected)[0][inner], atol=0.05)
        assert (degrees != 45) or (turned[0, :, 0, 0] == 0).all()


def test_each_image_turns_by_its_own_angle_about_the_crops_centre():
    pixels = noise(3, 16)
    spec = AugmentSpec(rotation=180)
    angles = np.array([0.0, np.pi / 2, -np.pi / 2])
    view = as_images(augment(torch.from_numpy(pixels), drawn(3, angle=angles), spec, plain(16), None))
    for image, quarters in enumerate((0, 1, -1)):
        assert np.allclose(view[image], np.rot90(pixels[image], quarters), atol=0.01)


# Size


@pytest.mark.parametrize(("resize_size", "size"), [(28, 224), (32, 224), (8, 24), (28, 96), (200, 224), (224, 227)])
def test_enlarging_is_torchvisions_resize_of_a_pillow_image(resize_size, size):
    photograph = Image.fromarray(load_sample_image("flower.jpg")).resize((resize_size, resize_size))
    expected = np.asarray(transforms.Resize(size)(photograph), dtype=float)
    pixels = torch.from_numpy(np.array(photograph)[None])
    (view,) = views(pixels, plain(resize_size, image_size=size), None)
    assert np.abs(as_images(view)[0] - expected).max() <= 1.5  # of 255: Pillow rounds to whole levels
    assert view.is_contiguous(memory_format=torch.channels_last)


def test_shrinking_is_antialiased():
    photograph = Image.fromarray(load_sample_image("china.jpg")).resize((100, 100))
    (view,) = views(torch.from_numpy(np.array(photograph)[None]), plain(100, image_size=40), None)
    expected = np.asarray(transforms.Resize(40)(photograph), dtype=float)
    assert np.abs(as_images(view)[0] - expected).max() <= 1.5


def test_the_right_size_is_left_alone():
    x = torch.rand(1, 3, 5, 5)
    assert resize(x, 5) is x


# Scale


def test_scalings_are_torchvisions():
    pixels = noise(4)
    means, deviations = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    by_255 = {"channel": (tuple(255 * m for m in means), tuple(255 * d for d in deviations))}
    cases = {
        "unit": ((0.0,) * 3, (255.0,) * 3, transforms.ToTensor()),
        "symmetric": (
            (127.5,) * 3,
            (127.5,) * 3,
            transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]),
        ),
        "channel": (
            *by_255["channel"],
            transforms.Compose([transforms.ToTensor(), transforms.Normalize(means, deviations)]),
        ),
    }
    for pixel_normalization, (mean, std, transform) in cases.items():
        preprocessing = plain(16, pixel_normalization=pixel_normalization, mean=mean, std=std)
        (view,) = views(torch.from_numpy(pixels), preprocessing, None)
        expected = torch.stack([transform(Image.fromarray(image)) for image in pixels])
        assert torch.allclose(view, expected, atol=2e-6), pixel_normalization


@pytest.mark.parametrize("pixel_normalization", ["mean-image", "mean-image-centre"])
def test_the_mean_image_goes_with_the_crop_or_stays_at_the_centre(pixel_normalization):
    pixels = noise(60)
    mean = np.random.default_rng(1).uniform(0, 255, (16, 16, 3)).astype(np.float32)
    spec = AugmentSpec(crop=10, flip=True)
    draws = draw(spec, 16, 0, 0, np.arange(60), np.arange(60), None)
    view = augment(
        torch.from_numpy(pixels),
        draws,
        spec,
        plain(16, 10, pixel_normalization=pixel_normalization),
        torch.from_numpy(mean),
    )
    assert 0 < draws.flip.sum() < 60
    for image, result in enumerate(as_images(view)):
        top, left = draws.top[image], draws.left[image]
        crop = pixels[image, top : top + 10, left : left + 10].astype(np.float32)
        away = mean[top : top + 10, left : left + 10]
        if draws.flip[image]:
            crop, away = crop[:, ::-1], away[:, ::-1]
        if pixel_normalization == "mean-image-centre":  # 2012's code: always the centre, never mirrored
            away = mean[3:13, 3:13]
        assert np.array_equal(result, crop - away)


def test_a_mean_image_that_is_missing_is_an_error():
    with pytest.raises(ValueError, match="needs the mean image"):
        next(views(torch.from_numpy(noise(1)), plain(16, pixel_normalization="mean-image"), None))


@pytest.mark.parametrize(("kind", "divisor"), [("paper", 1.0), ("cuda-convnet", 1.1)])
def test_noise_is_added_to_every_pixel_and_cuda_convnet_then_divides_everything(kind, divisor):
    pixels = noise(5)
    mean = np.random.default_rng(1).uniform(0, 255, (16, 16, 3)).astype(np.float32)
    spec = AugmentSpec(crop=12, color_noise=kind, color_noise_std=0.1)
    index = np.arange(5)
    draws = draw(spec, 16, 0, 0, index, index, COLOURS)
    view = augment(
        torch.from_numpy(pixels),
        draws,
        spec,
        plain(16, 12, pixel_normalization="mean-image-centre"),
        torch.from_numpy(mean),
    )
    for image, result in enumerate(as_images(view)):
        top, left = draws.top[image], draws.left[image]
        crop = pixels[image, top : top + 12, left : left + 12].astype(float) - mean[2:14, 2:14]
        assert np.allclose(result, (crop + draws.colour[image]) / divisor, atol=1e-4)
    (test_view,) = views(
        torch.from_numpy(pixels), plain(16, 12, pixel_normalization="mean-image-centre"), torch.from_numpy(mean)
    )
    assert np.allclose(as_images(test_view), pixels[:, 2:14, 2:14] - mean[2:14, 2:14])  # neither noise nor division


# Test views

CAFFE = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]  # oversample of pycaffe's io.py
CUDA_CONVNET = [(0, 0), (0, 32), (16, 16), (32, 0), (32, 32)]  # jpeg.cpp


def test_the_orders_of_the_ten_views_are_those_of_their_documents():
    for order, five in (("caffe", CAFFE), ("cuda-convnet", CUDA_CONVNET)):
        expected = [(*window, mirrored) for mirrored in (False, True) for window in five]
        assert ten_windows(256, 224, order) == expected
    mirror = [(0, 32), (0, 0), (32, 32), (32, 0), (16, 16)]  # the corners of the mirrored image
    expected = [(*window, False) for window in CAFFE] + [(*window, True) for window in mirror]
    assert ten_windows(256, 224, "tencrop") == expected
    assert ten_windows(256, 225, "caffe")[4] == (15, 15, False)  # pycaffe cuts 15.5 down
    assert ten_windows(256, 225, "tencrop")[4] == (16, 16, False)  # torchvision rounds it to even
    assert ten_windows(256, 225, "tencrop")[9] == (16, 15, True)


@pytest.mark.parametrize(("resize_size", "side"), [(16, 12), (16, 11), (17, 12), (16, 13), (16, 16)])
def test_ten_views_are_torchvisions(resize_size, side):
    pixels = torch.from_numpy(noise(3, resize_size))
    expected = [view.float() for view in transforms.TenCrop(side)(pixels.permute(0, 3, 1, 2))]
    found = list(views(pixels, plain(resize_size, side), None, 10))
    assert len(found) == len(expected) == 10
    for view, wanted in zip(found, expected, strict=True):
        assert torch.equal(view, wanted)
    if (resize_size - side) % 2 == 0:  # else the centre of the mirrored image is not the mirrored centre
        for order in ("caffe", "cuda-convnet"):
            other = list(views(pixels, plain(resize_size, side), None, 10, order))
            assert {view.numpy().tobytes() for view in other} == {wanted.numpy().tobytes() for wanted in expected}


@pytest.mark.parametrize("side", [224, 225, 226, 227, 255, 256])
def test_the_centre_is_torchvisions(side):
    pixels = torch.from_numpy(noise(1, 256))
    (view,) = views(pixels, plain(256, side), None)
    assert torch.equal(view, transforms.CenterCrop(side)(pixels.permute(0, 3, 1, 2)).float())
    top, left, mirrored = centre_window(256, side)
    assert (top, left, mirrored) == (round((256 - side) / 2),) * 2 + (False,)


@pytest.mark.parametrize("pixel_normalization", ["unit", "mean-image", "mean-image-centre"])
@pytest.mark.parametrize(("resize_size", "side"), [(28, 32), (28, 31), (28, 29)])
@pytest.mark.parametrize("count", [1, 10])
def test_views_larger_than_what_is_stored_are_of_the_reflected_image(count, resize_size, side, pixel_normalization):
    pixels, mean, beyond = (
        noise(2, resize_size),
        noise(1, resize_size, seed=1)[0].astype(np.float32),
        side - resize_size,
    )
    reflected, around = (np.pad(each, [*[(0, 0)] * (each.ndim - 3), *[(beyond, beyond)] * 2, (0, 0)], "reflect")
                         for each in (pixels.astype(np.float32), mean))  # fmt: skip
    windows = [centre_window(resize_size, side)] if count == 1 else ten_windows(resize_size, side, "tencrop")
    found = list(
        views(
            torch.from_numpy(pixels),
            plain(resize_size, side, pixel_normalization=pixel_normalization),
            torch.from_numpy(mean),
            count,
        )
    )
    for view, (top, left, mirrored) in zip(found, windows, strict=True):
        top, left, centre = top + beyond, left + beyond, centre_window(resize_size, side)[0] + beyond
        expected = reflected[:, top : top + side, left : left + side]
        if pixel_normalization == "mean-image":
            expected = expected - around[top : top + side, left : left + side]
        if mirrored:
            expected = expected[:, :, ::-1]
        if pixel_normalization == "mean-image-centre":
            expected = expected - around[centre : centre + side, centre : centre + side]
        assert np.array_equal(as_images(view), expected)


def test_views_are_scaled_and_sized_like_training():
    pixels = torch.from_numpy(noise(4))
    preprocessing = plain(16, 12, 24, "channel", (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    for window, view in zip(ten_windows(16, 12, "tencrop"), views(pixels, preprocessing, None, 10), strict=True):
        draws = drawn(4, *window)
        assert torch.equal(view, augment(pixels, draws, AugmentSpec(crop=12), preprocessing, None))


def test_a_view_of_one_image_is_the_same_in_any_batch():
    pixels = torch.from_numpy(noise(9))
    spec = AugmentSpec(crop=12, pad=2, flip=True, rotation=20, color_noise="paper")
    preprocessing = plain(16, 12, 20, "channel", (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))
    index = np.arange(9)
    whole = augment(pixels, draw(spec, 16, 0, 0, index, index, COLOURS), spec, preprocessing, None)
    for start in range(0, 9, 2):
        part = index[start : start + 2]
        exclusive_lock = augment(pixels[part], draw(spec, 16, 0, 0, part, part, COLOURS), spec, preprocessing, None)
        assert torch.equal(exclusive_lock, whole[start : start + 2])


def test_cutting_takes_any_kind_of_number():
    values = torch.rand(2, 8, 8, 3)
    one = torch.tensor([1, 2])
    assert torch.equal(
        crop_windows(values, one, one, torch.zeros(2, dtype=torch.bool), 4)[1], values[1, 2:6, 2:6].permute(2, 0, 1)
    )


# Crops of random size


@pytest.mark.parametrize(
    ("box", "side"), [((0, 0, 16, 16), 16), ((2, 5, 9, 7), 16), ((0, 0, 16, 16), 9), ((15, 0, 1, 16), 8)]
)
@pytest.mark.parametrize("flip", [False, True])
def test_a_window_is_resized_as_torchvision_does(box, side, flip):
    images = noise(3)
    top, left, height, width = box
    got = crop_and_resize(
        torch.from_numpy(images), torch.full((3,), top), torch.full((3,), left), torch.full((3,), flip),
        torch.tensor([[height, width]] * 3), side,
    )  # fmt: skip
    expected = reference.resized_crop(
        torch.from_numpy(images).permute(0, 3, 1, 2).float(), top, left, height, width, [side, side], antialias=True
    )
    torch.testing.assert_close(got, expected.flip(3) if flip else expected, rtol=0, atol=1e-3)
    assert got.is_contiguous(memory_format=torch.channels_last)


def test_crops_of_random_size_are_drawn_as_torchvision_draws_them():
    resize_size, count, random_resized_crop = 64, 4000, (0.08, 1.0)
    draws = draw(
        AugmentSpec(crop=56, random_resized_crop=random_resized_crop),
        resize_size,
        0,
        0,
        np.arange(count),
        np.arange(count),
        None,
    )
    torch.manual_seed(0)
    image = torch.empty(3, resize_size, resize_size)
    ratio = [3 / 4, 4 / 3]
    theirs = np.array(
        [transforms.RandomResizedCrop.get_params(image, list(random_resized_crop), ratio) for _ in range(count)]
    )
    ours = np.column_stack([draws.top, draws.left, draws.extent])
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= resize_size).all()
    for mine, their in zip(ours.T, theirs.T, strict=True):  # two-sample Kolmogorov–Smirnov: 0.0364 has p = 0.01
        values = np.arange(resize_size + 1)
        shares = [np.searchsorted(np.sort(column), values, side="right") / count for column in (mine, their)]
        assert np.abs(shares[0] - shares[1]).max() < 0.0364


def test_where_no_shape_fits_the_crop_is_the_whole_image():
    index = np.arange(200)
    draws = draw(AugmentSpec(random_resized_crop=(1.0, 1.0)), 16, 0, 0, index, index, None)
    assert (draws.extent == 16).all()
    assert not draws.top.any()
    assert not draws.left.any()


def test_training_views_of_crops_of_random_size_have_the_recipe_s_side():
    pixels, spec = torch.from_numpy(noise(4)), AugmentSpec(crop=12, random_resized_crop=(0.2, 1.0), flip=True)
    index = np.arange(4)
    draws = draw(spec, 16, 0, 1, index, index, None)
    view = augment(pixels, draws, spec, plain(16, crop=12), None)
    assert view.shape == (4, 3, 12, 12)
    for i in range(4):
        expected = reference.resized_crop(
            pixels[i].permute(2, 0, 1).float(), draws.top[i], draws.left[i], *draws.extent[i], [12, 12], antialias=True
        )
        torch.testing.assert_close(view[i], expected.flip(2) if draws.flip[i] else expected, rtol=0, atol=1e-3)


def test_ten_views_subtract_the_mean_image_as_it_lies_below_them():
    """Caffe subtracts the mean image from the whole image, then crops and mirrors the difference."""
    draws = np.random.default_rng(0)
    pixels = torch.tensor(draws.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    mean_image = torch.tensor(draws.uniform(0, 255, (32, 32, 3)).astype(np.float32))
    settings = Preprocessing(3, 32, 27, 27, "mean-image", resize="warp")
    found = list(views(pixels, settings, mean_image, 10, "caffe"))
    difference = (pixels - mean_image).permute(0, 3, 1, 2)
    places = [(0, 0), (0, 5), (5, 0), (5, 5), (2, 2)]
    crops = [difference[:, :, top : top + 27, left : left + 27] for top, left in places]
    expected = [*crops, *(crop.flip(3) for crop in crops)]
    assert len(found) == 10
    for crop in expected:
        assert sum(torch.equal(view, crop) for view in found) == 1
