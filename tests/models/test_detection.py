"""Faster R-CNN on the convolutions of an AlexNet: places, losses and detections."""

import copy
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign, roi_align

from alexnet.core.errors import UserError
from alexnet.models.bundle import load_model, save_model
from alexnet.models.detection import ASPECTS, SIZES, DetectionNet, _Anchors, pool_boxes
from alexnet.models.grid import Grid
from alexnet.models.registry import create_model, list_models
from alexnet.models.variants import VARIANTS
from alexnet.training.transfer import transfer_weights

ALEXNETS = [name for name in list_models() if VARIANTS[name].architecture is not None]


def narrow(variant="trunk", classes=3, **settings):
    return create_model(
        variant, head="faster-rcnn", num_classes=classes, in_channels=3, width=0.125, seed=0, **settings
    )


def targets(*images):
    """Boxes of images as an array ``(N, M, 6)``."""
    most = max(len(rows) for rows in images)
    empty = (-1.0, 0, 0, 0, 0, 0)
    rows = [[*rows, *[empty] * (most - len(rows))] for rows in images]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(images), most, 6)


@pytest.mark.parametrize("variant", ALEXNETS)
def test_every_alexnet_detects(variant):
    side = max(VARIANTS[variant].architecture.image_size, 64)
    network = narrow(variant, image_size=side).eval()
    maps = network(torch.randn(2, 3, side, side))
    assert maps.shape[2:] == (network.grid.size,) * 2
    found = network.detect(maps)
    assert len(found) == 2
    for image in found:
        assert image["boxes"].shape == (len(image["scores"]), 4)
        assert (image["boxes"] >= 0).all() and (image["boxes"] <= side).all()
        assert ((image["labels"] >= 0) & (image["labels"] < 3)).all()


def test_the_step_is_computed_from_the_layers():
    """trunk: conv1 and two pools have a stride of 2; conv1 pads 2 of 5 pixels, pools of 3 begin one map pixel later."""
    assert narrow(image_size=160).grid == Grid(start=6.0, step=8.0, size=19)
    assert narrow("torchvision").grid.step == 16 and narrow("torchvision").grid.size == 13


def test_a_place_of_the_maps_is_centred_where_its_anchors_are():
    """Of the network with mean pools and without ReLU, a place sees the same distance to all sides."""
    network = narrow(image_size=160).double().eval()
    grid = network.grid
    for name, layer in list(network.named_children()):
        if isinstance(layer, torch.nn.MaxPool2d):
            network.add_module(name, torch.nn.AvgPool2d(layer.kernel_size, layer.stride))
        if isinstance(layer, torch.nn.ReLU):
            network.add_module(name, torch.nn.Identity())
    x = torch.randn(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    maps = network(x)
    for row, column in ((7, 8), (9, 10), (12, 7)):
        (slope,) = torch.autograd.grad(maps[0, :, row, column].sum(), x, retain_graph=True)
        seen = torch.nonzero(slope[0].abs().sum(0))
        centre = (seen.min(0).values + seen.max(0).values) / 2
        assert centre.tolist() == [grid.start + grid.step * row, grid.start + grid.step * column]
    anchors = _Anchors(network.anchors, grid)(ImageList(x, [(160, 160)]), [maps])[0]
    assert anchors.shape == (grid.size**2 * len(SIZES) * len(ASPECTS), 4)
    place = (2 * grid.size + 3) * len(SIZES) * len(ASPECTS)
    centre = (anchors[place, :2] + anchors[place, 2:]) / 2
    assert centre.tolist() == [grid.start + 3 * grid.step + 0.5, grid.start + 2 * grid.step + 0.5]


def test_pooled_maps_are_those_at_the_place_of_the_box():
    """Maps that hold the positions of their pixels in the image: a pooled cell holds the position of its centre."""
    grid = Grid(start=6.0, step=8.0, size=19)
    line = grid.start + 0.5 + grid.step * torch.arange(grid.size, dtype=torch.float64)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    maps = torch.stack([rows, columns])[None]
    box = torch.tensor([[20.0, 40.0, 68.0, 100.0]], dtype=torch.float64)
    pooled = pool_boxes(maps, [box], grid, 6)[0]
    np.testing.assert_allclose(pooled[1, 0].numpy(), 20 + 48 / 6 * (np.arange(6) + 0.5))
    np.testing.assert_allclose(pooled[0, :, 0].numpy(), 40 + 60 / 6 * (np.arange(6) + 0.5))


def test_without_an_offset_losses_and_detections_are_those_of_torchvision():
    """torchvision assumes that the first pixel of the maps lies at the corner: with such a grid, both are equal."""

    class Corner(DetectionNet):
        grid = Grid(start=-0.5, step=8.0, size=11)

    ours = narrow(image_size=96)
    ours.__class__ = Corner
    ours.double()

    class Head(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.ModuleList([ours.rpn_conv, ours.rpn_score, ours.rpn_box])

        def forward(self, maps):
            hidden = [torch.relu(self.layers[0](each)) for each in maps]
            return [self.layers[1](each) for each in hidden], [self.layers[2](each) for each in hidden]

    class Pool(torch.nn.Module):
        """Theirs, but for boxes below one pixel of the maps, which theirs enlarges."""

        def forward(self, maps, boxes, shapes):
            return roi_align(maps["0"], [each / 8 + 0.5 for each in boxes], ours.pooled, 1.0, 2, aligned=True)

    class Box(torch.nn.Module):
        def forward(self, x):
            return torch.relu(ours.fc7(torch.relu(ours.fc6(x.flatten(1)))))

    class Predictor(torch.nn.Module):
        def forward(self, x):
            return ours.box_class(x), ours.box_shift(x)

    class Backbone(torch.nn.Module):
        out_channels = ours.rpn_conv.in_channels

        def forward(self, x):
            return OrderedDict([("0", ours(x))])

    generator = AnchorGenerator(((8,),), ((1.0,),))
    generator.cell_anchors = [ours.anchors]
    generator.num_anchors_per_location = lambda: [9]
    generator.set_cell_anchors = lambda dtype, device: None
    pool = MultiScaleRoIAlign(["0"], ours.pooled, 2)
    theirs = FasterRCNN(
        Backbone(), num_classes=None, min_size=96, max_size=96, image_mean=[0.0] * 3, image_std=[1.0] * 3,
        rpn_anchor_generator=generator, rpn_head=Head(), box_roi_pool=pool, box_head=Box(), box_predictor=Predictor(),
        rpn_pre_nms_top_n_train=1000, rpn_pre_nms_top_n_test=500, rpn_post_nms_top_n_train=300,
        rpn_post_nms_top_n_test=100, box_batch_size_per_image=64,
    ).double()  # fmt: skip
    theirs.roi_heads.box_roi_pool = Pool()
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    boxes = targets([(0, 8, 8, 40, 48, 0), (2, 50, 20, 90, 60, 0)], [(1, 30, 30, 70, 60, 0)]).double()
    with torch.no_grad():
        for layer in (ours.box_class, ours.box_shift, ours.rpn_score, ours.rpn_box):
            layer.weight.mul_(30)
    ours.train(), theirs.train()
    theirs.transform.eval()  # it would draw a random number for the size
    torch.manual_seed(3)
    mine, _ = ours.losses(ours(x), boxes)
    torch.manual_seed(3)
    wanted = [{"boxes": rows[rows[:, 0] >= 0, 1:5], "labels": rows[rows[:, 0] >= 0, 0].long() + 1} for rows in boxes]
    losses = theirs(list(x), wanted)
    assert losses.keys() == mine.keys()
    for name, value in losses.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-9, atol=0)
    ours.eval(), theirs.eval()
    for a, b in zip(ours.detect(ours(x)), theirs(list(x)), strict=True):
        torch.testing.assert_close(a["boxes"], b["boxes"])
        torch.testing.assert_close(a["scores"], b["scores"])
        assert (a["labels"] + 1).tolist() == b["labels"].tolist()
    assert len(a["boxes"])


def test_an_image_without_objects_has_a_loss_and_boxes_that_are_set_aside_are_none():
    network = narrow(image_size=96)
    maps = network(torch.randn(2, 3, 96, 96))
    aside = targets([(1, 8, 8, 40, 48, 1)], [])
    losses = []
    for rows in (aside, targets([], [])):
        torch.manual_seed(1)
        found, right = network.losses(maps, rows)
        assert all(value.isfinite() for value in found.values()) and right.shape == (2,)
        losses.append(sum(found.values()))
    assert torch.equal(*losses)
    sum(found.values()).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_anchors_follow_from_the_boxes_and_belong_to_the_model(tmp_path):
    network = narrow(image_size=96)
    assert network.anchors[4].tolist() == pytest.approx([-16.8, -16.8, 16.8, 16.8])  # 35 % of 96 pixels, a square
    sides = np.array([10.0, 10, 20, 20, 60, 60])
    network.set_anchors(np.stack([np.zeros(6), np.zeros(6), sides, sides], axis=1))
    width, height = (network.anchors[:, 2:] - network.anchors[:, :2]).T
    np.testing.assert_allclose((width * height).sqrt()[::3], [10, 20, 60], rtol=1e-5)
    np.testing.assert_allclose((height / width)[:3], ASPECTS, rtol=1e-5)
    before = network.anchors.clone()
    network.set_anchors(np.zeros((0, 4)))
    assert torch.equal(network.anchors, before)
    save_model(network, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.head == "faster-rcnn" and torch.equal(loaded.anchors, before)
    x = torch.randn(1, 3, 96, 96)
    for a, b in zip(network.eval().detect(network(x)), loaded.detect(loaded(x)), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_convolutions_and_hidden_layers_of_a_classifier_are_copied():
    classifier = create_model("caffenet", num_classes=5, width=0.125, seed=1)
    network = narrow("caffenet")
    found = transfer_weights(network, classifier)
    assert found.copied == ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
    assert torch.equal(network.fc6.weight, classifier.fc6.weight)


def test_layers_of_other_classes_are_not_copied():
    before, network = narrow(), narrow()
    before.info = replace(before.info, classes=("a", "b", "c"), labels=("a", "b", "c"))
    found = transfer_weights(network, before)
    assert found.new == ("box_class", "box_shift") and found.copied[-1] == "rpn_box"
    with pytest.raises(UserError, match="this network is for detection"):
        network.reset_classifier(5)


def test_weights_depend_on_the_seed_and_a_copy_has_its_own():
    assert torch.equal(narrow().rpn_conv.weight, narrow().rpn_conv.weight)
    network = narrow()
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.rpn_score.bias.add_(1)
    assert torch.equal(network.rpn_score.bias, torch.zeros(9))


def test_what_cannot_be_is_one_line():
    with pytest.raises(UserError, match=r"cannot have model.head=faster-rcnn"):
        create_model("lenet5", head="faster-rcnn")
    with pytest.raises(ValueError, match="pixels"):
        create_model("trunk", head="faster-rcnn", image_size=8)
