"""Where the arithmetic happens and in what precision, and how fast this machine is.

bf16 is taken where the machine multiplies it natively (AVX-512 BF16, AMX, NVIDIA from compute capability 8.0):
elsewhere it is emulated and slower than fp32.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from alexnet.core.errors import UserError
from alexnet.runtime.memory import keep_freed_memory

GIGA = 1e9
Module = TypeVar("Module", bound=torch.nn.Module)


@dataclass(frozen=True)
class DeviceConfig:
    """A device and the precision to use on it. ``bf16`` means autocast: weights and losses stay fp32. ``plain``: no
    fast forms, no layout in memory of our choice, no fused update; what the fast path is held to. ``int8``: predictors
    have int8 weights where they can, and compute the rest in bf16 or fp32.
    """

    device: torch.device
    bf16: bool
    reference: bool = False
    int8: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """The precision as a context; a no-op in fp32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    @property
    def precision(self) -> str:
        """``"int8"``, ``"bf16"`` or ``"fp32"``."""
        return "int8" if self.int8 else "bf16" if self.bf16 else "fp32"

    def to_device(self, module: Module) -> Module:
        """The module on the device, in place, its convolutions' weights channels last in memory like the images.

        With ``reference``, the memory format stays as it is.
        """
        module = module.to(self.device)
        return module if self.reference else module.to(memory_format=torch.channels_last)

    def to_memory_format(self, images: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` in memory as the placed module's weights are."""
        return images.contiguous(memory_format=torch.contiguous_format if self.reference else torch.channels_last)

    @contextlib.contextmanager
    def deterministic(self) -> Iterator[None]:
        """Algorithms that give the same bits each time, on a GPU too; as they were before, afterwards.

        CPUs need nothing for it but the same number of threads.
        """
        if self.device.type != "cuda":
            yield
            return
        settings: Any = torch.utils.deterministic  # a module whose one setting is a property
        before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
        filled = settings.fill_uninitialized_memory
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
        settings.fill_uninitialized_memory = False  # nothing here reads what it has not written
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark = before[1]
            settings.fill_uninitialized_memory = filled

    @contextlib.contextmanager
    def enough_memory(self, advice: str) -> Iterator[None]:
        """A context in which a device that is full is a ``UserError`` that ends with ``advice``."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise UserError(f"{self.device} has too little memory: {advice}") from error
        except RuntimeError as error:  # what CPUs raise, with only its text to know it by
            if "can't allocate memory" not in str(error):
                raise
            raise UserError(f"this machine has too little memory: {advice}") from error

    def synchronize(self) -> None:
        """Wait for the device, so that clocks measure work and not its submission."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def resolve_device(device: str | None = None, precision: str = "auto", *, reference: bool = False) -> DeviceConfig:
    """The device by name (None: a GPU if there is one) and the precision it does well, or the one asked for.

    On a CPU the process keeps its freed memory from now on (see ``memory.py``), unless it is to be ``plain``.
    ``"int8"``: of the weights of predictors, on CPUs; the rest as ``"auto"``. Raises ``UserError`` for a device that is
    not there, or does not do what is asked for.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once; see Machine.deterministic
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"there is no kind of device {name!r}: give cpu, cuda or cuda:1") from error
    try:
        torch.ones(1, device=chosen).item()  # a device that holds tensors and cannot compute, "meta", is none
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device {name!r} cannot be used here: try --device cpu", [reason]) from error
    if precision == "int8":
        _check_int8(chosen, reference=reference)
    well = precision in ("auto", "int8") and multiplies_bf16(chosen)
    device_config = DeviceConfig(chosen, precision == "bf16" or well, reference, precision == "int8")
    if chosen.type == "cpu" and not reference:
        keep_freed_memory()
    if chosen.type == "cuda" and not device_config.bf16:
        torch.backends.cudnn.allow_tf32 = False  # else convolutions round fp32 to ten bits
    return device_config


def _check_int8(device: torch.device, *, reference: bool) -> None:
    if reference:
        raise UserError("--precision int8 uses a fast kernel, and --reference uses none: give one of the two")
    if not multiplies_int8(device):
        raise UserError(f"int8 products are oneDNN's, on CPUs, and {device} here has none: leave --precision int8 out")


def multiplies_int8(device: torch.device) -> bool:
    """Whether this torch has int8 products for the device; how fast they are is another matter."""
    here: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return device.type == "cpu" and here and hasattr(torch.ops.onednn, "qconv_pointwise")


def multiplies_bf16(device: torch.device) -> bool:
    """Whether the device has matrix units or dot products for bf16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and "avx512_bf16" in _cpu_flags()


def matrix_dtype(device_config: DeviceConfig) -> str:
    """The type of number in which :func:`matrix_rate` multiplies, whatever the training does."""
    return "bfloat16" if multiplies_bf16(device_config.device) else "float32"


def matrix_rate(device_config: DeviceConfig, size: int = 4096, repeats: int = 3) -> float:
    """GFLOP/s of a size³ bf16 matrix product (fp32 where bf16 is emulated), the median of a few: what a
    figure in seconds is quoted beside.
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
    """What a measured figure must name: processor, cores or GPU, threads, and the versions that matter."""
    if device_config.device.type == "cuda":
        hardware = torch.cuda.get_device_name(device_config.device)
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        hardware = f"{cores} cores of {_cpu_name()}"
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
    }


def hardware_name(hardware: Mapping[str, Any]) -> str:
    """What :func:`describe_hardware` found, in a few words: "2 cores of AMD EPYC, AVX2".

    A CPU's vectors and matrix units say more of its speed than its model does. In records from before they were
    written down, that it multiplied bf16 says which they were.
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
    """Without the marks of trade in it."""
    return re.sub(r"\((R|TM)\)", "", _cpu_info("model name")) or platform.machine()
