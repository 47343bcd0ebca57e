"""Training and evaluation of models for detection: the loss, and the detected objects of images."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.core.randomness import derive_key
from alexnet.data.augment import view_boxes
from alexnet.data.loader import to_device
from alexnet.data.prepared import PreparedDataset
from alexnet.kernels.accelerate import accelerate
from alexnet.models.classifier import Classifier
from alexnet.models.detection import MOST_DETECTIONS, DetectionNet, Detections
from alexnet.runtime.device import DeviceConfig
from alexnet.runtime.group import ONE, Group
from alexnet.training.evaluate import inputs, shared_batches

BATCH = 32
ROW = 6  # of a detection: class (−1 for none), left, top, right, bottom, score


@dataclass(frozen=True)
class DetectionLoss:
    """The sum of the four losses of Faster R-CNN (Ren et al. 2015), see ``train.criterion``.

    ``outputs``: feature maps ``(N, C, h, w)``; ``targets``: boxes ``(N, M, 6)`` in pixels of the input. Boxes are
    sampled by random numbers that depend on (``seed``, step) only.
    """

    network: DetectionNet
    seed: int

    def measure(self, outputs: Tensor, targets: Tensor, step: int = 0) -> tuple[Tensor, Tensor]:
        """See ``Criterion``: an image counts as the share of its sampled boxes that have the right class."""
        with random_numbers(derive_key(self.seed, "boxes", step), outputs.device):
            losses, right = self.network.losses(outputs, targets)
        return torch.stack(list(losses.values())).sum(), right.sum()

    def share(self, some: Tensor, targets: Tensor) -> float:
        """See ``Criterion``."""
        return len(some) / len(targets)


@contextlib.contextmanager
def random_numbers(key: int, device: torch.device) -> Iterator[None]:
    """A context in which torch's global generators begin with ``key``; afterwards they are as they were before."""
    with torch.random.fork_rng([device] if device.type == "cuda" else [], device_type="cuda"):
        torch.manual_seed(key)
        yield


def detected(
    model: Classifier,
    dataset: PreparedDataset,
    index: NDArray[np.int64],
    device_config: DeviceConfig,
    group: Group = ONE,
) -> Iterator[tuple[list[Detections], NDArray[np.float32], list[float]]]:
    """The arguments of ``DetectionMetrics.add`` for the images ``index``, batch by batch, in order.

    In a group, whole batches are divided among the processes; each process gets all images.
    """
    assert isinstance(model, DetectionNet)
    network = accelerate(model, device_config)
    heads = device_config.to_device(copy.deepcopy(model)).eval()  # in fp32, as in training

    def compute(own: NDArray[np.int64]) -> Iterator[Tensor]:
        for positions, views in inputs(model, dataset, own, device_config, 1, BATCH):
            with torch.inference_mode():
                with device_config.autocast():
                    maps = network(device_config.to_memory_format(next(views))).float()
                found = heads.detect(maps)
                boxes = view_boxes(
                    to_device(dataset.read_boxes(positions), device_config.device), model.preprocessing, dataset.side
                )
                losses = []
                for image, wanted in zip(maps, boxes, strict=True):
                    with random_numbers(0, image.device):
                        parts, _ = heads.losses(image[None], wanted[None])
                    losses.append(float(torch.stack(list(parts.values())).sum()))
            yield pack_detections(found, losses)

    for positions, rows in shared_batches(index, BATCH, compute, group):
        boxes = view_boxes(torch.from_numpy(dataset.read_boxes(positions)), model.preprocessing, dataset.side)
        found, losses = unpack_detections(rows.cpu())
        yield found, boxes.numpy(), losses


def pack_detections(found: Sequence[Detections], losses: Sequence[float]) -> Tensor:
    """The detections and the loss of N images as rows ``(N, 6 · MOST_DETECTIONS + 1)``, which processes exchange."""
    rows = torch.full((len(found), MOST_DETECTIONS, ROW), -1.0)
    for row, image in zip(rows, found, strict=True):
        together = torch.cat([image["labels"][:, None].float(), image["boxes"], image["scores"][:, None]], dim=1)
        row[: len(together)] = together
    finite = torch.tensor(losses, dtype=torch.float32)
    return torch.cat([rows.flatten(1), finite[:, None]], dim=1).to(found[0]["boxes"].device)


def unpack_detections(rows: Tensor) -> tuple[list[Detections], list[float]]:
    """The inverse of :func:`pack_detections`."""
    found: list[Detections] = []
    for row in rows[:, :-1].view(len(rows), MOST_DETECTIONS, ROW):
        real = row[row[:, 0] >= 0]
        found.append({"boxes": real[:, 1:5], "scores": real[:, 5], "labels": real[:, 0].long()})
    return found, [value if math.isfinite(value) else math.nan for value in rows[:, -1].tolist()]


def check_boxed(dataset: PreparedDataset) -> None:
    """Raise ``UserError`` for a dataset without boxes."""
    if dataset.annotations != "boxes":
        raise UserError(
            f"{dataset.name} has no boxes: a recipe for detection trains on a folder in the format of COCO, PASCAL VOC "
            "or YOLO"
        )
