"""The command ``alexnet`` with one part of its group of processes as PyTorch has it by default: negative controls.

``python -m alexnet_lab.faults.pytorch_defaults PART train …``, started by torchrun. ``ddp``: gradients are summed by
``DistributedDataParallel``, which arranges its buckets anew in the first step after each start. ``store``: a restarted
attempt has no names of its own in the store, and finds the addresses of processes that are dead.
"""

from __future__ import annotations

import copy
import datetime
import sys
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.nn.parallel import DistributedDataParallel

from alexnet.cli.main import main as alexnet
from alexnet.distributed import groups, process_group
from alexnet.distributed.process_group import Place, ProcessGroup
from alexnet.models.layers import Masks

SECONDS = 10  # after which an attempt to connect is given up; 120 in the program


class DdpGroup(ProcessGroup):
    """A group whose gradients ``DistributedDataParallel`` sums. Each process has images of each batch."""

    def __init__(self, place: Place, device: object) -> None:
        super().__init__(place, device)  # type: ignore[arg-type]
        self.weight = float(self.size)  # it averages the gradients, and the program sums them

    def prepare(self, network: nn.Module, copies: Sequence[nn.Module]) -> None:
        """Let the network that trains do its passes through ``DistributedDataParallel``."""
        super().prepare(network, copies)
        wrapped = DistributedDataParallel(copy.copy(copies[0]))

        def forward(x: Tensor, masks: Masks | None = None) -> Tensor:
            logits: Tensor = wrapped(x, masks)
            return logits

        copies[0].forward = forward

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Nothing: they are summed already."""

    def totals(self, loss: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """The loss without the factor of :attr:`weight`."""
        return super().totals(loss / self.size, right)


def use_ddp() -> None:
    """Sum gradients by ``DistributedDataParallel``."""
    groups.GROUPS["data"] = DdpGroup


def use_default_store() -> None:
    """Give all attempts the same names in the store."""
    setattr(process_group, "PrefixStore", _without_attempt)  # noqa: B010 – for the type checker it is a class
    process_group.TIMEOUT = datetime.timedelta(seconds=SECONDS)


def _without_attempt(prefix: str, store: Store) -> PrefixStore:
    return PrefixStore(prefix.partition("group-")[2], store)


PARTS: dict[str, Callable[[], None]] = {"ddp": use_ddp, "store": use_default_store}

if __name__ == "__main__":
    PARTS[sys.argv[1]]()
    sys.exit(alexnet(sys.argv[2:]))
