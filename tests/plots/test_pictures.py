"""Each plot: the right numbers at the right positions, for one class and for a thousand, and a caption for all."""

import io
import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import FigureBase
from matplotlib.text import Text
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.models.alexnet import LinearLayer
from alexnet.models.registry import create_model, get_architecture
from alexnet.models.variants import VARIANTS
from alexnet.plots import canvas
from alexnet.plots.activations import plot_activations, shown_layers
from alexnet.plots.architecture import compose_architecture, network_blocks
from alexnet.plots.augmentations import compose_augmentations, stored_pixels
from alexnet.plots.canvas import DOTS_PER_INCH, NARROW_WIDTH
from alexnet.plots.confusion import (
    ConfusionMatrix,
    compose_counted_confusion,
    matrix_of_result,
    most_confused_classes,
    order_by_confusion,
    plot_confusion,
)
from alexnet.plots.embedding import plot_embedding, project_tsne
from alexnet.plots.filters import as_tiles, columns_of, plot_filters
from alexnet.plots.neighbours import Neighbour, plot_neighbours
from alexnet.plots.predictions import (
    LEAST_CERTAIN,
    MISTAKES,
    SAMPLE,
    Group,
    PredictedImage,
    choose_examples,
    plot_predictions,
)
from alexnet.plots.rdm import plot_rdm
from alexnet.plots.receptive_field import compose_receptive_fields
from alexnet.recipes import RECIPES

pytestmark = pytest.mark.usefixtures("one_thread")
SLIM = {"hidden": (LinearLayer(8), LinearLayer(8))}


def slim_network(name, image_size=80):
    return create_model(name, num_classes=2, in_channels=3, image_size=image_size, seed=0, **SLIM)


def png(picture) -> Image.Image:
    """The picture, read back: whole, not empty, of a sensible size, no text beyond its edges; also the phones' form."""
    assert picture.caption
    assert png_of(picture.narrow()).width <= 1.05 * NARROW_WIDTH * DOTS_PER_INCH
    return png_of(picture.figure)


def png_of(figure) -> Image.Image:
    image = Image.open(io.BytesIO(canvas.encode_figure(figure, "")))
    image.load()
    assert min(image.size) > 200
    assert len(np.unique(np.asarray(image.convert("L")))) > 10
    hidden = beyond_their_axis(figure)
    for text in figure.findobj(Text):
        if text not in hidden and text.get_text().strip() and seen(text):
            box = text.get_window_extent()
            inside = box.x0 >= -3 and box.x1 <= image.width + 3 and box.y0 >= -3 and box.y1 <= image.height + 3
            kept_in_its_axes = text.get_clip_on() and text.get_clip_box() is not None
            assert inside or kept_in_its_axes, (text.get_text(), box, image.size)
    for one, other in itertools.combinations(titles(figure), 2):
        assert not overlap(one.get_window_extent(), other.get_window_extent()), (one.get_text(), other.get_text())
    return image


def seen(text) -> bool:
    return text.get_visible() and all(parent.get_visible() for parent in _above(text))


def beyond_their_axis(figure) -> set[Text]:
    """Labels of ticks that lie outside an axis: they are there and are not drawn."""
    found = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        found |= {label for tick in outside for label in (tick.label1, tick.label2)}
    return found


def titles(figure) -> list[Text]:
    """Those of the axes, and of the figure and its parts."""
    parts = figure.findobj(FigureBase)
    found = [part._suptitle for part in parts if part._suptitle] + [axes.title for axes in figure.axes]
    return [text for text in found if text.get_text() and seen(text)]


def overlap(one, other) -> bool:
    """Whether two boxes share more than an edge."""
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    return across > 1 and min(one.y1, other.y1) - max(one.y0, other.y0) > 1


def _above(artist):
    """The axes and figures that an artist is drawn in."""
    return [parent for parent in (artist.axes, artist.figure) if parent is not None and hasattr(parent, "get_visible")]


def texts(figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def photograph(side=64, channels=3):
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    across, down = np.broadcast_to(ramp, (side, side)), np.broadcast_to(ramp[:, None], (side, side))
    pixels = np.stack([across, down, np.full((side, side), 90, np.uint8)], axis=2)
    return np.ascontiguousarray(pixels[:, :, :channels])


def encoded(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


# Shared


def test_a_picture_is_a_file_of_the_kind_its_name_says(tmp_path):
    picture = plot_confusion(np.eye(3, dtype=np.int64), ["a", "$b$", "c"], "three")
    for name, start in (("a.png", b"\x89PNG"), ("b.SVG", b"<?xml")):
        picture.save(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert "$b$" in (tmp_path / "b.SVG").read_text(encoding="utf-8").replace("\\", "")
    again = [plot_confusion(np.eye(3, dtype=np.int64), ["a", "$b$", "c"], "three").encode(".svg") for _ in range(2)]
    assert again[0] == again[1]
    with pytest.raises(UserError, match=r"plots are written as PNG or SVG, so the name must end in \.png or \.svg"):
        canvas.check_format(tmp_path / "picture.jpg")


def test_classes_have_marks_of_their_own():
    marks = canvas.class_markers(canvas.MARKERS)
    assert len(set(marks)) == canvas.MARKERS == 60
    assert len({colour for colour, _ in marks[:10]}) == 10
    assert all(one[0] != other[0] for one, other in itertools.pairwise(marks))
    assert all(one[1] != other[1] for one, other in itertools.pairwise(marks[:8]))
    assert len(canvas.class_markers(1000)) == canvas.MARKERS


def test_a_name_in_letters_that_no_font_has_is_drawn_without_a_word_and_said_in_full():
    picture = plot_confusion(np.eye(2, dtype=np.int64), ["犬 \U00012000", "кот"], "two")
    png(picture)  # a warning would be an error
    assert picture.values["order"] == ["犬 \U00012000", "кот"]
    assert "\U00012000: shown as boxes" in canvas.missing_glyphs_note([picture.figure])
    assert canvas.missing_glyphs_note([plot_confusion(np.eye(2, dtype=np.int64), ["кот", "½ ✓"], "two").figure]) == ""


def test_a_probability_is_never_said_to_be_none_or_all():
    assert [canvas.percent(value) for value in (0.874, 0.01, 0.004, 0.0)] == ["87%", "1%", *["less than 1%"] * 2]
    assert [canvas.percent(value) for value in (0.994, 0.996, 1.0)] == ["99%", "more than 99%", "100%"]


def test_a_long_name_fills_two_lines():
    assert canvas.in_two_lines("cat.jpg", 17) == "cat.jpg"
    assert canvas.in_two_lines("birds (n01530575_brambling.JPEG)", 17) == "birds\n(n01530575_bramb…"
    assert canvas.in_two_lines("a" * 60, 17) == "a" * 17 + "\n" + "a" * 16 + "…"
    assert canvas.in_two_lines("日本語日本語日本語日", 10) == "日本語日本\n語日本語日"


def test_tiles_stand_in_rows():
    images = np.arange(1, 6)[:, None, None, None] * np.ones((5, 2, 3, 1))
    sheet = canvas.tiles(images, 2, gap=1, ground=0.0)[:, :, 0]
    assert sheet.shape == (3 * 3 + 1, 2 * 4 + 1)
    assert sheet[1, 1] == 1
    assert sheet[1, 5] == 2
    assert sheet[7, 1] == 5
    assert sheet[7, 5] == 0
    assert (sheet[::3] == 0).all()


# Kernels


def test_kernels_are_stretched_about_zero():
    kernels = torch.tensor([[[[-2.0, 0.0], [1.0, 2.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    tiles = as_tiles(kernels)
    assert tiles.shape == (2, 2, 2, 1)
    assert tiles[0, :, :, 0].tolist() == [[0.0, 0.5], [0.75, 1.0]]
    assert (tiles[1] == 0.5).all()


def test_columns_are_shown_apart_and_one_tower_as_the_control():
    networks = {name: slim_network(name) for name in ("paper", "one-tower")}
    assert [columns_of(network) for network in networks.values()] == [2, 1]
    with torch.no_grad():
        networks["paper"].conv1.weight[:48] = networks["paper"].conv1.weight[:48, :1]  # grey
    picture = plot_filters(networks)
    png(picture)
    assert picture.values["paper"]["colour"]["first"] == pytest.approx(0, abs=1e-9)
    assert picture.values["paper"]["colour"]["p"] < 0.001
    assert picture.values["one-tower"]["colour"]["p"] > 0.001
    written = texts(picture.figure)
    assert {"column 1", "column 2", "half 1", "half 2"} <= set(written)
    control = plot_filters({"paper": networks["paper"]})
    png(control)
    assert control.values["paper"]["colour"]["p"] < 0.001 < control.values["paper, shuffled"]["colour"]["p"]
    assert "paper: 96 first-layer filters in two columns; mean colour index 0.00 and 0.6" in picture.caption


def test_grey_kernels_have_no_colour():
    picture = plot_filters({"digits": create_model("small", num_classes=10, in_channels=1, image_size=28, seed=0)})
    png(picture)
    assert "colour" not in picture.values["digits"]


# Activity


def test_active_units_are_counted_for_each_layer():
    maps = torch.zeros(40, 3, 3)
    maps[:10] = 1.0
    units = torch.tensor([1.0, -1.0, 2.0])
    outputs = {"relu1": maps, "norm1": maps, "pool5": units[:, None, None], "sigmoid2": maps / 2, "fc8": units}
    picture = plot_activations(
        photograph(), outputs, "it", {"fc8": ["dog", "flower", "cat"]}, {"relu1": 0.0, "sigmoid2": 0.5}
    )
    png(picture)
    assert picture.values["active"] == {"relu1": 0.25, "sigmoid2": 0.0}  # a sigmoid that says neither is not active
    written = texts(picture.figure)
    assert any("the 30 strongest maps" in text for text in written)
    assert any(text.startswith("relu1: 40 × 3 × 3\n25% of units above 0\n") for text in written)
    assert "fc8: 3\nlogits\nall" in written
    assert {"dog", "flower", "cat"} < set(written)
    assert picture.caption.endswith(
        "it: relu1 25% of units above 0, norm1, pool5, sigmoid2 0% of units above 0.5, fc8 highest for “cat”"
    )


def test_a_map_that_is_even_and_strong_is_not_drawn_as_one_that_is_dead():
    maps = torch.zeros(2, 2, 2)
    maps[1] = 9.0
    drawn = plot_activations(photograph(), {"pool5": maps}, "it", {}, {}).figure.axes[1].images[0].get_array()
    assert drawn[1, 1] == 0
    assert drawn[1, 4] == 1


def test_each_layer_is_shown_from_its_activation_on():
    shown = {name: shown_layers(slim_network(name), []) for name in ("paper", "batchnorm")}
    ends = ["relu3", "relu4", "relu5", "pool5", "relu6", "relu7", "fc8"]
    assert shown["paper"] == ["relu1", "norm1", "pool1", "relu2", "norm2", "pool2", *ends]
    assert shown["batchnorm"] == ["relu1", "pool1", "relu2", "pool2", *ends]
    assert shown_layers(create_model("lenet5", seed=0), [])[:3] == ["sigmoid1", "pool1", "sigmoid2"]


# Predictions


def test_groups_are_chosen_by_what_they_say():
    sure_and_wrong, sure, torn = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.4, 0.39, 0.21]
    probabilities = np.array([sure, sure_and_wrong, torn, sure], np.float32)
    labels = np.array([1, 2, 0, 1])
    chosen = choose_examples(probabilities, labels, 2)
    assert chosen[SAMPLE].tolist() == [0, 3]
    assert chosen[MISTAKES].tolist() == [1]
    assert chosen[LEAST_CERTAIN][0] == 2
    assert MISTAKES not in choose_examples(probabilities[:1], labels[:1], 2)
    assert list(choose_examples(np.ones((3, 1), np.float32), np.zeros(3, np.int64), 2)) == [SAMPLE]


@pytest.mark.parametrize("classes", [1, 2, 1000])
def test_predictions_of_one_and_of_a_thousand_classes(classes):
    probabilities = np.random.default_rng(0).dirichlet(np.ones(classes)).astype(np.float32)
    names = [f"class {number} with a name that goes on and on, $100" for number in range(classes)]
    answers = [PredictedImage(photograph(), names[0], probabilities, 0)]
    picture = plot_predictions([Group("as they come", answers)], names, "title")
    png(picture)
    bars = [text for text in texts(picture.figure) if text.startswith(("class", "✓"))]
    assert len(bars) == min(5, classes) + 1
    assert all(len(text) < 30 for text in bars)


def test_a_phone_has_rows_for_the_answers_that_there_are():
    answers = [PredictedImage(photograph(), "a", np.array([0.9, 0.1], np.float32), 0) for _ in range(6)]
    few, many = (
        plot_predictions([Group("as they come", answers), Group("mistakes", answers[:count])], ["a", "b"], "title")
        for count in (2, 6)
    )
    assert png_of(few.narrow()).height < png_of(many.narrow()).height
    assert png(few).height == png(many).height


# Confusion


def test_confused_classes_lie_together():
    matrix = 20 * np.eye(6, dtype=np.int64)
    for one, other in ((0, 3), (1, 4), (2, 5)):
        matrix[one, other] = matrix[other, one] = 9
    order = order_by_confusion(matrix).tolist()
    assert sorted(order) == list(range(6))
    assert all(abs(order.index(one) - order.index(other)) == 1 for one, other in ((0, 3), (1, 4), (2, 5)))
    assert order_by_confusion(np.array([[3]])).tolist() == [0]


@pytest.mark.parametrize("classes", [1, 2, 10, 100, 1000])
def test_a_matrix_of_any_size_can_be_drawn(classes):
    matrix = np.random.default_rng(0).poisson(0.02, (classes, classes)) + 5 * np.eye(classes, dtype=np.int64)
    matrix[-1] = 0  # a class without images
    names = [f"n{number:08d} whose name goes on and on" for number in range(classes)]
    picture = plot_confusion(matrix.astype(np.int64), names, "many")
    png(picture)
    shown = [text for text in texts(picture.figure) if text.startswith("n0")]
    assert len(set(shown)) == classes if classes <= 20 else 20 < len(set(shown)) <= 40
    assert sorted(picture.values["order"]) == names
    assert set(picture.values["accuracy"]) == set(names)
    assert ("lowest accuracy" in picture.caption) == (classes > 2)  # of two the one without images is not counted
    assert list(picture.values["accuracy"].values())[-1] is None


def test_of_many_classes_the_commonest_mistakes_are_seen_with_their_names_and_counts():
    matrix = 50 * np.eye(100, dtype=np.int64)
    for one in range(0, 30, 2):
        matrix[one, one + 1] = 40 - one
    assert most_confused_classes(matrix).tolist() == list(range(20))
    written = texts(plot_confusion(matrix, [f"class {number}" for number in range(100)], "many").figure)
    assert {"class 0", "class 19", "40", "22"} < set(written)
    assert "class 20" not in written
    right = plot_confusion(50 * np.eye(100, dtype=np.int64), [f"class {number}" for number in range(100)], "right")
    png(right)
    assert right.caption == "right, accuracy 100.00%; no mistakes"
    assert "no mistakes" in texts(right.figure)


def test_what_was_counted_in_the_end_is_the_matrix():
    result = {
        "split": "test", "source": "a set", "images": 7, "views": 10,
        "per_class": {
            "a": {"images": 4, "top1": 0.75}, "b": {"images": 3, "top1": 2 / 3}, "c": {"images": 0, "top1": None},
        },
        "confusions": [{"true": "a", "predicted": "c", "images": 1}, {"true": "b", "predicted": "a", "images": 1}],
    }  # fmt: skip
    assert matrix_of_result(result, ["a", "b", "c"]).tolist() == [[3, 0, 1], [1, 2, 0], [0, 0, 0]]
    model = create_model("small", num_classes=3, seed=0)
    model.info = replace(model.info, classes=("a", "b", "c"), labels=("A", "B", "C"))
    picture = compose_counted_confusion(result, model, "run")
    png(picture)
    assert picture.caption.startswith(
        "run on a set: 7 test images, ten views, accuracy 71.43%; “A” predicted as “C” (1), "
    )
    with pytest.raises(UserError, match="no images that the network was not trained on"):
        compose_counted_confusion({**result, "split": None}, model, "run")


@pytest.mark.parametrize(("present", "bars"), [(25, 20), (13, 12), (2, 2), (1, 1)])
def test_as_many_are_hardest_as_easiest(present, bars):
    matrix = np.diag(np.arange(1, 26))
    matrix[0, 1] = 5
    matrix[present:] = 0
    counted = ConfusionMatrix(matrix, [str(n) for n in range(25)], np.arange(25))
    assert len(counted.extremes()) == bars


def test_too_many_classes_are_not_a_matrix():
    classes = tuple(str(number) for number in range(2001))
    with pytest.raises(UserError, match="2,001 classes are too many for a confusion matrix"):
        compose_counted_confusion({"split": "test"}, SimpleNamespace(classes=classes, labels=classes), "run")


def test_what_is_equally_hard_is_said_to_be():
    matrix = np.diag([4, 4, 0, 0, 2])
    matrix[2, 3] = matrix[3, 2] = matrix[4, 0] = 2
    caption = plot_confusion(matrix, ["a", "b", "c", "d", "e"], "run").caption
    assert caption.endswith("lowest accuracy: “c” and 1 more (0%), highest: “a” and 1 more (100%)")


# Neighbours and maps


def test_neighbours_stand_behind_their_photograph():
    row = [Neighbour(photograph(16), f"class {number}", number / 3) for number in range(6)]
    queries = [
        ("a photograph with a long name.jpg", photograph()),
        ("日本の犬の写真、とても長い名前.jpg", photograph()),
    ]
    picture = plot_neighbours(queries, [row, row[:2]], "the nearest of 50,000 train images of a set, by relu7")
    png(picture)
    assert "名前.jpg: class 0 0.000, class 1 0.333" in picture.caption
    marked = [axes.spines["top"].get_visible() for axes in picture.figure.axes if axes.get_visible()]
    assert marked == [True, *[False] * 6, True, *[False] * 2]  # the photographs alone
    first, second = picture.values["images"]
    assert first["nearest"][5] == {"class": "class 5", "distance": 5 / 3}
    assert [len(each["nearest"]) for each in (first, second)] == [6, 2]
    same = plot_neighbours([queries[0]] * 2, [row, row], "twice")
    assert len(same.values["images"]) == 2


@pytest.mark.parametrize("classes", [1, 4, 200])
def test_a_map_keeps_groups_together(classes):
    draws = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 200 // classes)
    features = (8 * draws.normal(size=(classes, 10))[labels] + draws.normal(size=(len(labels), 10))).astype(np.float32)
    places = project_tsne(features)
    assert places.shape == (len(labels), 2)
    assert places.min() == 0
    assert places.max() == pytest.approx(1)
    pixels = np.zeros((len(labels), 8, 8, 1), np.uint8)
    picture = plot_embedding(places, labels, pixels, [f"class {n}" for n in range(classes)], "map")
    png(picture)
    chance = (200 // classes - 1) * 200 / 199
    assert f"by chance it would be {chance:,.3g}" in picture.caption
    assert ("the 12 classes that are separated best are in colour" in picture.caption) == (classes == 200)
    if classes < 200:
        assert picture.values["nearest_is_of_own_class"] > 0.9


def test_too_few_images_make_no_map():
    with pytest.raises(UserError, match="t-SNE needs at least 8 images, not 3"):
        project_tsne(np.zeros((3, 4), np.float32))


# Of names


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_s_architecture_can_be_drawn(name):
    picture = compose_architecture(name)
    png(picture)
    grouped = ("paper", "cuda-convnet", "bvlc-alexnet", "caffenet", "nvidia-batchnorm")
    assert picture.values["columns"] == (2 if name in grouped else 1)


def test_the_paper_s_stages():
    found = {stage.name: stage for stage in network_blocks(slim_network("paper", image_size=224))}
    assert found["conv2"].shape == (256, 27, 27)
    assert (found["conv2"].kernel, found["conv2"].joined, found["conv3"].joined) == (5, False, True)
    assert found["conv2"].ops == ("relu", "LRN", "pool → 13")
    assert found["fc6"].ops == ("relu", "dropout 0.5")
    assert list(found) == ["input", "conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]


def written(folder, contents):
    (folder / "image.png").write_bytes(contents)
    return folder / "image.png"


@pytest.mark.parametrize("name", VARIANTS)
def test_fields_by_arithmetic_are_those_by_gradient(name, tmp_path):
    picture = compose_receptive_fields(name, written(tmp_path, encoded(photograph(300))))
    png(picture)
    for sides in picture.values.values():
        assert sides["gradient"] == [sides["arithmetic"]] * 2
    if name == "paper":
        assert list(picture.values.values())[-1]["arithmetic"] == 195


def test_fields_are_those_of_an_architecture_that_departs(tmp_path):
    image = written(tmp_path, encoded(photograph(300)))
    narrow = replace(get_architecture("small"), pool_kernel=2)
    last = [list(compose_receptive_fields("small", image, it).values.values())[-1] for it in (None, narrow)]
    assert last[0]["arithmetic"] > last[1]["arithmetic"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_s_augmentation_can_be_shown(name, tmp_path):
    from alexnet.recipes import get_recipe

    recipe = get_recipe(name)
    pixels = stored_pixels(recipe, written(tmp_path, encoded(photograph(300))))
    picture = compose_augmentations(recipe, pixels)
    png(picture)
    assert ("ten views" in picture.caption) == (recipe.augment.crop not in (None, len(pixels)))
    assert ("ten views, averaged" in picture.caption) == (recipe.train.views == 10)
    assert picture.values["test"] == (10 if "ten views" in picture.caption else 1)
    assert ("not of a dataset" in picture.caption) == (recipe.augment.color_noise != "none")
    expected = {"digits": (8, 1), "fashion-mnist": (28, 1), "cifar10": (32, 3), "tiny-imagenet": (64, 3)}
    assert (pixels.shape[0], pixels.shape[2]) == expected.get(recipe.data.source, (recipe.data.resize_size or 256, 3))
    assert f"as stored, {len(pixels)} × {len(pixels)}" in texts(picture.figure)


def test_an_image_as_a_network_saw_it_is_drawn_to_scale():
    pixels = np.full((28, 28, 1), 255, np.uint8)
    drawn = compose_receptive_fields("small", pixels).figure.axes[0].images[0].get_array()
    assert (drawn == 255).sum() == 28 * 28
    assert drawn.shape[0] > 28
    assert (
        compose_receptive_fields("small", np.full((600, 600, 3), 7, np.uint8)).figure.axes[0].images[0].get_array() == 7
    ).all()


def test_a_bad_image_costs_a_line(tmp_path):
    from alexnet.recipes import get_recipe

    with pytest.raises(UserError, match=r"image\.png: "):
        stored_pixels(get_recipe("photos"), written(tmp_path, b"no image"))
    with pytest.raises(UserError, match=r"image\.png: "):
        compose_receptive_fields("small", written(tmp_path, b"no image"))


def test_a_dissimilarity_matrix_is_sorted_by_class():
    """Images 0, 2 of "b" and 1, 3 of "a": distances are 0.1 within and 1 between classes."""
    distances = np.array([[0, 1, 0.1, 1], [1, 0, 1, 0.1], [0.1, 1, 0, 1], [1, 0.1, 1, 0]])
    picture = plot_rdm(distances, ["b", "a", "b", "a"], "map")
    (image,) = picture.figure.axes[0].images
    np.testing.assert_array_equal(np.asarray(image.get_array())[0], [0, 0.1, 1, 1])
    assert [label.get_text() for label in picture.figure.axes[0].get_yticklabels()] == ["a", "b"]
    assert picture.values == {"within_classes": pytest.approx(0.1), "between_classes": 1.0}
    assert "within classes 0.100, between classes 1.000" in picture.caption
    distances[0] = distances[:, 0] = np.nan
    assert plot_rdm(distances, [""] * 4, "map").values == {}
    assert plot_rdm(distances, ["b", "a", "b", "a"], "map").values["within_classes"] == pytest.approx(0.1)
