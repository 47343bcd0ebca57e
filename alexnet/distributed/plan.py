"""How long a training would take on many devices, and what would limit it: arithmetic, nothing is run.

**Computation.** A training image costs three times the multiply-adds of a forward pass (the pass, the gradient of the
activations, the gradient of the weights), two FLOPs each; conv1 needs no gradient of the pixels. A device reaches a
share of its peak, by default ``REACHED``.

**Communication.** Bytes that one of N devices sends in a step, with a global batch of B images in fp32. An all-reduce
of n bytes sends 2 n (N − 1)/N, an all-gather or a reduce-scatter n (N − 1)/N (ring algorithms: Patarasuk and Yuan,
JPDC 2009):

* data: an all-reduce of all P gradients, 8 P (N − 1)/N.
* hybrid (Krizhevsky 2014): the gradients of all parameters that are not divided, P′ (the bias of the second divided
  layer among them), as above; the inputs of the first divided layer (F of an image) are gathered and their gradients
  scattered, and the outputs of the second (U of an image) the other way round: 8 (P′ + B (F + U)) (N − 1)/N.
* columns (2012): half of the maps before conv3, of the features before fc6 and of the units before fc7 go to the other
  device, and their gradients back; the logits are summed, and the gradients of the last layer's biases.

Computation and communication do not overlap in this program, so their times are added.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from alexnet.core.errors import UserError, unknown
from alexnet.distributed.divided_layers import COLUMNS, check_columns, divided_linear_layers
from alexnet.distributed.groups import GROUPS, check_divisible, check_processes
from alexnet.models.classifier import Classifier
from alexnet.models.summary import summarize
from alexnet.runtime.group import Parallel

REACHED = 0.4  # of the peak
FP32 = 4
SETS = {  # built-in set → training images, classes, channels
    "imagenet": (1_281_167, 1000, 3), "tiny-imagenet": (100_000, 200, 3), "fashion-mnist": (60_000, 10, 1),
    "mnist": (60_000, 10, 1), "cifar10": (50_000, 10, 3), "digits": (1_437, 10, 1),
}  # fmt: skip
MOST_DEVICES = 1_000_000
NODE = 8  # devices that are joined by the fast link


@dataclass(frozen=True)
class Device:
    """A device. ``tflops``: dense peak in bf16 (fp16 for Volta). ``link``: GB/s in each direction, to the devices of
    the same computer. ``network``: GB/s of each device to other computers.
    """

    tflops: float
    link: float
    network: float
    source: str


DEVICES = {
    "H200": Device(989, 450, 50, "NVIDIA's data sheet: NVLink 900 GB/s in both directions; a 400 Gb/s NIC a device"),
    "H100": Device(989, 450, 50, "NVIDIA's data sheet, SXM: NVLink 900 GB/s; a 400 Gb/s NIC a device"),
    "A100": Device(312, 300, 25, "NVIDIA's data sheet, SXM: NVLink 600 GB/s; a 200 Gb/s NIC a device"),
    "V100": Device(125, 150, 12.5, "NVIDIA's data sheet, SXM2, fp16: NVLink 300 GB/s; a 100 Gb/s NIC a device"),
    "RTX3090": Device(71, 16, 1.25, "NVIDIA's data sheet; PCIe 4.0 x16 shared by two devices; 10 Gb/s Ethernet"),
}
RECORDS = (  # published: what, seconds
    ("1,024 P40, batch 65,536, 95 epochs, 58.7 % top-1 (arXiv:1807.11205)", 4 * 60),
    ("1,024 CPUs, batch 32,768, 100 epochs, 58.5 % top-1 (arXiv:1709.05011)", 11 * 60),
    ("two GTX 580, batch 128, about 90 epochs (Krizhevsky et al. 2012)", 5.5 * 86_400),
)


@dataclass(frozen=True)
class Step:
    """One step with a global batch: seconds of computation and of communication, and the bytes that a device sends."""

    parallel: Parallel
    batch: int
    compute: float
    communicate: float
    sent: float

    @property
    def images_per_second(self) -> float:
        """Of all devices together."""
        return self.batch / (self.compute + self.communicate)

    @property
    def bound(self) -> str:
        """What takes longer: "computation" or "communication"."""
        return "computation" if self.compute >= self.communicate else "communication"


def parse_devices(text: str) -> tuple[int, str, Device]:
    """The number, name and figures of ``8xH100``. Raises ``UserError``."""
    count, _, given = text.replace("×", "x").partition("x")
    if not (count.isascii() and count.isdigit() and 0 < int(count) <= MOST_DEVICES and given):
        raise UserError(f"--devices {text!r}: give a number and a device, for example 8xH100")
    name = next((known for known in DEVICES if known.lower() == given.lower()), None)
    if name is None:
        raise unknown("device", given, DEVICES)
    return int(count), name, DEVICES[name]


def bytes_sent(network: Classifier, parallel: Parallel, devices: int, batch: int) -> float:
    """Bytes that one device sends in a step. Raises ``UserError`` for a network that cannot be divided like this."""
    if devices == 1:
        return 0.0
    share = (devices - 1) / devices
    parameters = {name: parameter.numel() for name, parameter in network.named_parameters()}
    if parallel == "data":
        return 2 * FP32 * share * sum(parameters.values())
    shapes = network.layer_shapes()
    if parallel == "hybrid":
        first, second = divided_linear_layers(network)
        whole = {name: count for name, count in parameters.items() if name.rpartition(".")[0] not in (first, second)}
        by_units, by_inputs = network.get_submodule(first), network.get_submodule(second)
        assert isinstance(by_units, nn.Linear) and isinstance(by_inputs, nn.Linear)
        summed = sum(whole.values()) + parameters.get(f"{second}.bias", 0)
        return 2 * FP32 * share * (summed + batch * (by_units.in_features + by_inputs.out_features))
    check_columns(network)
    names = [name for name, _ in network.named_children()]
    exchanged = 0
    is_first = True
    for before, name in itertools.pairwise(["", *names]):
        layer = network.get_submodule(name)
        if isinstance(layer, nn.Conv2d):
            exchanged += 0 if layer.groups > 1 or is_first else math.prod(shapes[before])
            is_first = False
        elif isinstance(layer, nn.Linear) and name != network.last_layer:
            exchanged += layer.in_features
    logits = 2 * network.num_classes  # an all-reduce forward; backward the gradients of the logits
    bias = network.num_classes  # the biases of the last layer are not divided: an all-reduce of their gradients
    return FP32 * (batch * (2 * exchanged / COLUMNS + logits) + bias)


def plan_steps(
    network: Classifier,
    devices: int,
    device: Device,
    batches: Sequence[int],
    reached: float = REACHED,
    link: float | None = None,
) -> list[Step]:
    """The steps for each way to divide the work that fits the network, and for each global batch.

    ``link``: GB/s of each device, in place of the device's own.
    """
    flops = summarize(network).training_flops
    speed = link or (device.link if devices <= NODE else device.network)
    steps = []
    for parallel, batch in itertools.product((way for way in GROUPS if _fits(network, way, devices)), batches):
        # Each of the two columns has all images and half of the work.
        work = flops * (batch / COLUMNS if parallel == "columns" else math.ceil(batch / devices))
        sent = bytes_sent(network, parallel, devices, batch)
        steps.append(Step(parallel, batch, work / (reached * device.tflops * 1e12), sent / (speed * 1e9), sent))
    return steps


def _fits(network: Classifier, parallel: Parallel, devices: int) -> bool:
    try:
        check_processes(devices, parallel)
        check_divisible(network, parallel)
    except UserError:
        return False
    return True
