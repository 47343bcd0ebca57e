"""The device and the precision of the computation, and the speed of the hardware.

By default, bf16 is used if the hardware supports it natively (AVX-512 BF16, AMX, NVIDIA from compute capability 8.0).
On other hardware bf16 is emulated, and slower than fp32.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.core.platform import cpu_count
from alexnet.runtime.memory import keep_freed_memory

GIGA = 1e9
Module = TypeVar("Module", bound=torch.nn.Module)


class _NoTF32:
    """A context in which GPUs do not round the inputs of fp32 convolutions to the ten bits of TF32.

    The setting is one of the whole process. It is restored when the last thread has left the context.
    """

    def __init__(self) -> None:
        self._lock, self._inside, self._before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = torch.backends.cudnn.allow_tf32
                torch.backends.cudnn.allow_tf32 = False
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                torch.backends.cudnn.allow_tf32 = self._before


NO_TF32 = _NoTF32()
NO_MEMORY = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED")
"""What messages of CUDA and its libraries contain if memory is missing, other than torch.OutOfMemoryError."""


@dataclass(frozen=True)
class DeviceConfig:
    """A device and the precision to use on it.

    ``bf16``: autocast to bf16; weights and losses stay in fp32. ``reference``: reference PyTorch layers, the default
    memory format and unfused optimizers, as a reference for the fast kernels. ``int8``: for inference, large layers
    have int8 weights, and the other layers compute in bf16 or fp32.
    """

    device: torch.device
    bf16: bool
    reference: bool = False
    int8: bool = False

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The context of computations in this precision. In fp32, a GPU rounds nothing to TF32 in it."""
        with self._exact(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def _exact(self) -> AbstractContextManager[object]:
        return NO_TF32 if self.device.type == "cuda" and not self.bf16 else contextlib.nullcontext()

    @property
    def precision(self) -> str:
        """``"int8"``, ``"bf16"`` or ``"fp32"``."""
        return "int8" if self.int8 else "bf16" if self.bf16 else "fp32"

    def to_device(self, module: Module) -> Module:
        """Move the module to the device, in place, and convert its weights to channels last, like the images.

        With ``reference``, the memory format does not change.
        """
        module = module.to(self.device)
        return module if self.reference else module.to(memory_format=torch.channels_last)

    def to_memory_format(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)``, same shape, channels last in memory; contiguous with ``reference``."""
        return images.contiguous(memory_format=torch.contiguous_format if self.reference else torch.channels_last)

    @contextlib.contextmanager
    def deterministic(self) -> Iterator[None]:
        """A context in which GPU algorithms are deterministic: the same inputs give the same bits.

        The earlier settings are restored at its end. On CPUs results are the same for the same number of threads.
        """
        if self.device.type != "cuda":
            yield
            return
        settings: Any = torch.utils.deterministic  # a module whose one setting is a property
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        filled = settings.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        settings.fill_uninitialized_memory = False  # no code here reads uninitialized memory
        try:
            with self._exact():
                yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark = before[1]
            settings.fill_uninitialized_memory = filled

    @contextlib.contextmanager
    def enough_memory(self, advice: str) -> Iterator[None]:
        """A context that turns an out-of-memory error into a ``UserError`` whose message ends with ``advice``."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError(f"{self.device} has too little memory: {advice}") from error
        except RuntimeError as error:  # of other errors, only the text shows that memory is the reason
            if self.device.type == "cuda" and any(words in str(error) for words in NO_MEMORY):
                raise UserError(f"{self.device} has too little memory: {advice}") from error
            if "can't allocate memory" not in str(error):
                raise
            raise UserError(f"this computer has too little memory: {advice}") from error

    def synchronize(self) -> None:
        """Wait until the device has finished its work, so that time measurements include it."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def resolve_device(device: str | None = None, precision: str = "auto", *, reference: bool = False) -> DeviceConfig:
    """The device and the precision to use.

    ``device``: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, …; None: a GPU if there is one, else the CPU. ``precision``:
    ``"auto"`` (bf16 if the hardware supports it natively, else fp32), ``"fp32"``, ``"bf16"``, or ``"int8"`` (int8
    weights for inference on CPUs, other layers as ``"auto"``). ``reference``: see :class:`DeviceConfig`. On a CPU,
    without ``reference``, the process keeps its freed memory from now on (see ``memory.py``). Raises ``UserError`` if
    the device does not exist or does not support the precision.
    """
    # cuBLAS reads this variable once; DeviceConfig.deterministic needs it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no kind of device {name!r}: give cpu, cuda or cuda:1") from error
    try:
        torch.ones(1, device=chosen).item()  # refuse a device that cannot compute, e.g. "meta"
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here: try --device cpu", [reason]) from error
    if precision == "int8":
        _check_int8(chosen, reference=reference)
    well = precision in ("auto", "int8") and multiplies_bf16(chosen)
    device_config = DeviceConfig(chosen, precision == "bf16" or well, reference, precision == "int8")
    if chosen.type == "cpu" and not reference:
        keep_freed_memory()
    if chosen.type == "cuda" and chosen.index is not None:
        torch.cuda.set_device(chosen)  # pinned memory belongs to the current GPU: else it would be the first one
    return device_config


def _check_int8(device: torch.device, *, reference: bool) -> None:
    if reference:
        raise UserError("--precision int8 uses a fast kernel, and --reference uses none: give one of the two")
    if not multiplies_int8(device):
        raise UserError(
            "--precision int8 needs a CPU and a torch with oneDNN int8 products: leave --precision int8 out"
        )


def multiplies_int8(device: torch.device) -> bool:
    """Whether torch has int8 products for the device; they can still be slow."""
    here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return device.type == "cpu" and here and hasattr(torch.ops.onednn, "qconv_pointwise")


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has matrix units or dot products for bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and "avx512_bf16" in _cpu_flags()


def matrix_dtype(device_config: DeviceConfig) -> str:
    """The dtype of :func:`matrix_rate`, ``"bfloat16"`` or ``"float32"``; it can differ from that of the training."""
    return "bfloat16" if multiplies_bf16(device_config.device) else "float32"


def matrix_rate(device_config: DeviceConfig, size: int = 4096, repeats: int = 3) -> float:
    """GFLOP/s of a matrix product of two ``size`` × ``size`` matrices, in bf16, or fp32 where bf16 is emulated.

    It is the median of ``repeats`` measurements, and is reported next to measured times.
    """
    dtype = getattr(torch, matrix_dtype(device_config))
    a = torch.ones((size, size), dtype=dtype, device=device_config.device)
    seconds = []
    for _ in range(repeats + 1):
        device_config.synchronize()
        start = time.perf_counter()
        torch.mm(a, a)
        device_config.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[1:]) / GIGA


def describe_hardware(device_config: DeviceConfig) -> dict[str, object]:
    """The hardware and software that a measurement depends on: processor, cores or GPU, threads and versions."""
    if device_config.device.type == "cuda":
        hardware = torch.cuda.get_device_name(device_config.device)
    else:
        hardware = f"{cpu_count()} cores of {_cpu_name()}"
    return {
        "device": device_config.device.type,
        "hardware": hardware,
        "precision": device_config.precision,
        "matrix_dtype": matrix_dtype(device_config),
        "instructions": "AMX" if "amx_bf16" in _cpu_flags() else torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        **({"cudnn": cudnn_version()} if device_config.device.type == "cuda" else {}),
    }


def cudnn_version() -> int:
    """The version of cuDNN as a number, such as 92301 for 9.23.1; on a GPU, last bits depend on it."""
    return int(torch.backends.cudnn.version() or 0)  # type: ignore[no-untyped-call]


def hardware_name(hardware: Mapping[str, Any]) -> str:
    """The result of :func:`describe_hardware` in a few words: "2 cores of AMD EPYC, AVX2".

    The instruction set of a CPU is included, because its speed depends on it more than on the model. Old records do not
    contain it; there it follows from the dtype of the matrix product.
    """
    if hardware["device"] != "cpu":
        return str(hardware["hardware"])
    multiplied = hardware.get("matrix_dtype") or ("bfloat16" if hardware.get("precision") == "bf16" else "")
    units = hardware.get("instructions")
    if multiplied == "bfloat16" and units != "AMX":
        units = "AVX-512 BF16"
    return f"{hardware['hardware']}, {units}" if units else str(hardware["hardware"])


def _cpu_info(field: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def _cpu_flags() -> set[str]:
    return set(_cpu_info("flags").split())


def _cpu_name() -> str:
    """The model name of the CPU, without "(R)" and "(TM)"."""
    return re.sub(r"\((R|TM)\)", "", _cpu_info("model name")) or platform.machine()
