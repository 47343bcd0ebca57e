"""Two computers: two network namespaces that a virtual cable joins, with torchrun in each. Needs root rights."""

import os
import subprocess
import sys
import uuid

import pytest

from alexnet.runtime.run import Run

ADDRESSES = ("10.77.0.1", "10.77.0.2")
WORDS = ["train", "small-digits", "--device", "cpu", "--set", "model.width=0.125", "--set", "train.steps=20"]
WORDS += ["--set", "train.precision=fp32", "--set", "train.batch_size=128"]
PATIENCE = 900


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def nodes():
    """(Namespace, interface, address) of two joined namespaces."""
    number = uuid.uuid4().hex[:6]
    names, cables = [f"node-{number}-{side}" for side in "ab"], [f"v{number}{side}" for side in "ab"]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for name, cable, address in zip(names, cables, ADDRESSES, strict=True):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", cable)
            ip("-n", name, "link", "set", cable, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield list(zip(names, cables, ADDRESSES, strict=True))
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces are not possible here: {getattr(error, 'stderr', None) or error}")
    finally:
        for name in made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


@pytest.mark.slow
@pytest.mark.timeout(2000)
@pytest.mark.skipif(
    not os.environ.get("ALEXNET_TEST_NAMESPACES"),
    reason="makes network interfaces on this computer: set ALEXNET_TEST_NAMESPACES=1 to run it as root",
)
def test_two_nodes_train_as_two_processes_of_one_computer(nodes, home, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ALEXNET_HOME": str(home)}
    together = [sys.executable, "-m", "alexnet", *WORDS, "--out", "one", "--nproc", "2"]
    done = subprocess.run(together, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    agent = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d"]
    agent += ["--rdzv-id", "job", "--rdzv-endpoint", f"{ADDRESSES[0]}:29500"]
    started = []
    for number, (name, cable, address) in enumerate(nodes):
        place = ["--local-addr", address, "--rdzv-conf", f"is_host={1 - number}"]
        words = [sys.executable, *agent, *place, "-m", "alexnet", *WORDS, "--out", "two"]
        started.append(
            subprocess.Popen(
                ["ip", "netns", "exec", name, *words], cwd=tmp_path, env={**environment, "GLOO_SOCKET_IFNAME": cable},
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
        )  # fmt: skip
    try:
        outputs = [process.communicate(timeout=PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], outputs
    assert sum("the run is in two" in output for output, _ in outputs) == 1
    assert Run(tmp_path / "two").finished
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
