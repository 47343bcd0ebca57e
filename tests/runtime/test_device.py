"""Devices by name, precision by what the machine does well, and the machine's own rate."""

import pytest
import torch

from alexnet.core.errors import UserError
from alexnet.runtime import device
from alexnet.runtime.device import (
    DeviceConfig,
    describe_hardware,
    hardware_name,
    matrix_rate,
    multiplies_bf16,
    resolve_device,
)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.mark.parametrize("name", ["gpu", "cpu cpu", "cuda:x"])
def test_an_unknown_device_is_a_user_error(name):
    with pytest.raises(UserError) as caught:
        resolve_device(name)
    assert str(caught.value) == f"there is no kind of device {name!r}: give cpu, cuda or cuda:1"


@pytest.mark.parametrize("name", ["cuda:99", "meta"])
def test_a_device_that_cannot_compute_is_a_user_error(name):
    with pytest.raises(UserError) as caught:
        resolve_device(name)
    assert caught.value.line == f"device {name!r} cannot be used here: try --device cpu"
    assert len(caught.value.details) == 1


def test_no_device_said_is_the_best_one():
    assert resolve_device("").device.type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "cpu has too little memory: buy more"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "this computer has too little memory: buy more",
        ),
    ],
)
def test_too_little_memory_is_a_user_error(error, line):
    with pytest.raises(UserError) as caught, DeviceConfig(CPU, False).enough_memory("buy more"):
        raise error
    assert caught.value.line == line


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    ],
)
def test_too_little_memory_has_several_names_on_a_gpu(text):
    with pytest.raises(UserError) as caught, DeviceConfig(GPU, False).enough_memory("buy more"):
        raise RuntimeError(text)
    assert caught.value.line == "cuda:1 has too little memory: buy more"
    with pytest.raises(RuntimeError, match="CU"), DeviceConfig(CPU, False).enough_memory("buy more"):
        raise RuntimeError(text)


def test_memory_that_a_real_allocation_asks_for_in_vain():
    with pytest.raises(UserError, match="too little memory"), DeviceConfig(CPU, False).enough_memory("buy more"):
        torch.empty(2**50, dtype=torch.uint8)


def test_other_errors_are_not_taken_for_memory():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), DeviceConfig(CPU, False).enough_memory("buy more"):
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_int8_is_of_weights_and_the_rest_is_as_the_machine_does_it_well():
    device_config = resolve_device("cpu", "int8")
    assert (device_config.int8, device_config.precision) == (True, "int8")
    assert device_config.bf16 == resolve_device("cpu").bf16


def test_int8_is_refused_where_it_is_not_to_be_had(monkeypatch):
    with pytest.raises(UserError, match="--reference"):
        resolve_device("cpu", "int8", reference=True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(UserError, match="--precision int8 needs a CPU and a torch with oneDNN int8 products"):
        resolve_device("cpu", "int8")


@pytest.mark.parametrize(("precision", "bf16"), [("fp32", False), ("bf16", True)])
def test_a_precision_that_is_asked_for_is_used(precision, bf16):
    device_config = resolve_device("cpu", precision)
    assert (device_config.device, device_config.bf16, device_config.precision) == (CPU, bf16, precision)
    with device_config.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if bf16 else torch.float32)


@pytest.mark.parametrize(
    ("flags", "native"), [("fpu avx512f avx512_bf16", True), ("fpu avx2 avx512f", False), ("", False)]
)
def test_bf16_is_taken_where_the_processor_multiplies_it(monkeypatch, tmp_path, flags, native):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nmodel name : A(R) Chip\nflags\t: {flags}\n\nprocessor : 1\nflags : other\n")
    monkeypatch.setattr(device, "Path", lambda _: info)
    assert multiplies_bf16(CPU) is native
    assert resolve_device("cpu", "auto").bf16 is native
    assert describe_hardware(resolve_device("cpu"))["hardware"].endswith("cores of A Chip")


@pytest.mark.parametrize(("flags", "units"), [("avx512_bf16 amx_tile amx_bf16", "AMX"), ("avx512_bf16 amx_tile", "X")])
def test_matrix_units_are_written_down_where_they_multiply_bf16(monkeypatch, tmp_path, flags, units):
    info = tmp_path / "cpuinfo"
    info.write_text(f"flags\t: {flags}\n")
    monkeypatch.setattr(device, "Path", lambda _: info)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "X")
    assert describe_hardware(resolve_device("cpu"))["instructions"] == units


def test_a_system_that_does_not_describe_its_processor_gets_fp32(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "Path", lambda _: tmp_path / "absent")
    assert multiplies_bf16(CPU) is False


def test_detection_here_gives_an_answer():
    assert type(multiplies_bf16(CPU)) is bool


def test_modules_are_placed_channels_last():
    layer = resolve_device("cpu").to_device(torch.nn.Conv2d(3, 4, 5))
    assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    assert not layer.weight.is_contiguous()


def test_the_reference_leaves_the_memory_format():
    images = torch.zeros(2, 3, 8, 8)
    fast, reference = (DeviceConfig(CPU, False, reference=value) for value in (False, True))
    assert fast.to_device(torch.nn.Conv2d(3, 8, 3)).weight.is_contiguous(memory_format=torch.channels_last)
    assert reference.to_device(torch.nn.Conv2d(3, 8, 3)).weight.is_contiguous()
    assert fast.to_memory_format(images).is_contiguous(memory_format=torch.channels_last)
    assert reference.to_memory_format(images).is_contiguous()


def test_the_machine_s_rate_is_positive():
    rate = matrix_rate(resolve_device("cpu"), size=128)
    assert 0.01 < rate < 1e6


def test_the_rate_is_operations_over_the_median_of_seconds(monkeypatch):
    ticks = iter([0, 100, 0, 1, 0, 2, 0, 4])  # the first product only warms up
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(ticks))
    assert matrix_rate(resolve_device("cpu"), size=100) == pytest.approx(2 * 100**3 / 2 / 1e9)


def test_hardware_names_what_a_figure_depends_on():
    facts = describe_hardware(resolve_device("cpu", "fp32"))
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert (facts["device"], facts["precision"]) == ("cpu", "fp32")
    assert "cores of" in facts["hardware"]


def test_a_gpu_is_deterministic_for_a_training_and_as_it_was_after():
    """Only switches are thrown, so no GPU is needed to see them thrown."""

    def flags():
        return torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark

    before = flags()
    with DeviceConfig(torch.device("cuda"), bf16=False).deterministic():
        assert flags() == (True, False)
    assert flags() == before
    with DeviceConfig(torch.device("cpu"), bf16=False).deterministic():
        assert flags() == before


def test_fp32_is_not_rounded_to_tf32_on_a_gpu_and_the_setting_is_restored(monkeypatch):
    """Only a switch is thrown, so no GPU is needed. One thread leaves while another still computes."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    allowed = lambda: torch.backends.cudnn.allow_tf32  # noqa: E731
    fp32, other = (DeviceConfig(GPU, bf16=False).autocast() for _ in range(2))
    with fp32:
        other.__enter__()
        assert not allowed()
    assert not allowed()
    other.__exit__(None, None, None)
    assert allowed()
    with DeviceConfig(GPU, bf16=False).deterministic():
        assert not allowed()
    with DeviceConfig(GPU, bf16=True).deterministic(), DeviceConfig(CPU, bf16=False).autocast():
        assert allowed()


def test_a_gpu_that_is_named_is_the_current_one_and_its_cudnn_is_written_down(monkeypatch):
    chosen = []
    monkeypatch.setattr(device.torch, "ones", lambda *shape, device: torch.zeros(1))
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a GPU")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92301)
    facts = describe_hardware(resolve_device("cuda:1"))
    resolve_device("cuda")
    resolve_device("cpu")
    assert chosen == [GPU]
    assert (facts["hardware"], facts["cudnn"], facts["precision"]) == ("a GPU", 92301, "bf16")
    assert "cudnn" not in describe_hardware(resolve_device("cpu"))


@pytest.mark.parametrize(
    ("hardware", "name"),
    [
        ({"device": "cpu", "matrix_dtype": "float32", "instructions": "AVX2"}, "a chip, AVX2"),
        ({"device": "cpu", "matrix_dtype": "bfloat16", "instructions": "AVX512"}, "a chip, AVX-512 BF16"),
        ({"device": "cpu", "matrix_dtype": "bfloat16", "instructions": "AMX"}, "a chip, AMX"),
        ({"device": "cpu", "precision": "bf16"}, "a chip, AVX-512 BF16"),
        ({"device": "cpu", "precision": "fp32"}, "a chip"),
        ({"device": "cuda", "matrix_dtype": "bfloat16", "instructions": "AVX2"}, "a chip"),
    ],
)
def test_a_machine_is_told_by_its_vectors(hardware, name):
    assert hardware_name({"hardware": "a chip", **hardware}) == name
