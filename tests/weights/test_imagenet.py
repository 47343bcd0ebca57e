"""The 1000 classes and the mean image, against torchvision's list of classes and Caffe's published averages."""

import re

import torch
import torchvision

from alexnet.weights.imagenet import CLASSES, class_names, ilsvrc_mean_image


def test_ids_are_sorted_and_labels_are_distinct():
    wnids, labels = class_names()
    assert len(wnids) == len(labels) == CLASSES == len(set(labels))
    assert list(wnids) == sorted(set(wnids))
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in wnids)
    assert (wnids[0], labels[0]) == ("n01440764", "tench")
    assert {"crane (n02012849)", "crane (n03126707)"} <= set(labels)


def test_the_order_is_torchvisions():
    theirs = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta["categories"]
    ours = [re.sub(r" \(n\d{8}\)$", "", label) for label in class_names()[1]]
    differ = [(our, their) for our, their in zip(ours, theirs, strict=True) if our.lower() != their.lower()]
    # torchvision shortens or disambiguates a few names; the same class is meant
    assert len(differ) < 20, differ
    assert all(our.split()[0].lower()[:3] in their.lower() or their.lower() in our.lower() for our, their in differ), (
        differ
    )


def test_the_mean_image_is_caffes_as_rgb():
    """The averages of ilsvrc_2012_mean.npy, which is BGR, are 104.007, 116.669 and 122.679."""
    image = ilsvrc_mean_image()
    assert image.shape == (256, 256, 3)
    assert image.dtype == torch.float32
    averages = image.double().mean(dim=(0, 1)).tolist()
    assert [round(value, 3) for value in averages] == [122.679, 116.669, 104.007]
