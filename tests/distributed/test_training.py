"""Trainings in several processes: the same as in one, after kills and signals too, and errors in one line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from alexnet.runtime.run import Run
from alexnet_lab.faults.processes import ranks

WORKER = Path(__file__).with_name("worker.py")
LIMITS = {"float64": 1e-12, "fp32": 2e-5, "fp32 fast": 2e-5, "bf16": 2e-2}
WORDS = ["train", "small-digits", "--device", "cpu", "--set", "model.width=0.125", "--set", "train.epochs=20"]
WORDS += ["--set", "train.precision=fp32", "--set", "train.batch_size=128"]
PATIENCE = 400  # seconds: three processes share two cores with another test, whose threads may be many


@pytest.fixture
def environment(home):
    return {**os.environ, "OMP_NUM_THREADS": "1", "ALEXNET_HOME": str(home)}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3, 4])
def test_several_processes_train_as_one_does(processes, tmp_path, environment):
    agent = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run([*agent, WORKER, tmp_path], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(found) == {2: 48, 3: 42, 4: 14}[processes]
    for name, figures in found.items():
        limit = LIMITS[name.rpartition(", ")[2]]
        assert figures["weights"] <= limit, (name, figures)
        assert figures["optimizer"] <= 10 * limit, (name, figures)  # velocities are differences of gradients
        assert figures["metrics"] <= limit, (name, figures)
        assert figures["ranks agree"], name


def start(tmp_path, environment, *more, processes=3):
    words = [*WORDS, "--out", "run", "--nproc", str(processes), *more]
    command = [sys.executable, "-m", "alexnet", *words]
    return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def wait_for(condition, process):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.02)


def checkpoints(tmp_path):
    return [*(tmp_path / "run" / "checkpoints").glob("step-*")]


def finished(process):
    output, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, output.decode(), errors.decode()


def weights(tmp_path):
    return load_file(tmp_path / "run" / "model" / "model.safetensors")


@pytest.mark.slow
def test_killed_and_stopped_processes_end_with_the_same_bits(tmp_path, environment):
    """A kill of one process, then SIGTERM: to the command, and to one process, which stops the others too."""
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
    status, output, errors = finished(start(tmp_path / "undisturbed", environment))
    assert status == 0, errors
    assert "top-1" in output
    assert output.count("the run is in run") == 1
    place = tmp_path / "disturbed"
    for killed, stopped in ((1, None), (0, 2)):
        process = start(place, environment)
        for what in ("kill", "stop"):
            before = set(checkpoints(place))
            wait_for(lambda before=before: set(checkpoints(place)) - before, process)
            children = ranks(process.pid)
            if what == "kill":
                os.kill(children[killed], signal.SIGKILL)
        os.kill(process.pid if stopped is None else children[stopped], signal.SIGTERM)
        status, _, errors = finished(process)
        assert status == 143, errors
        assert errors.count("stopped after step") == 1
        assert "Traceback" not in errors
        assert not any(Path(f"/proc/{number}").exists() for number in children.values())
    status, _, errors = finished(start(place, environment))
    assert status == 0, errors
    assert len([event for event in Run(place / "run").events() if event["event"] == "resume"]) == 4
    expected, found = weights(tmp_path / "undisturbed"), weights(place)
    assert all(found[key].equal(value) for key, value in expected.items())
    metrics = [(tmp_path / name / "run" / "metrics.jsonl").read_bytes() for name in ("undisturbed", "disturbed")]
    assert metrics[0] == metrics[1]


def test_a_mistake_gives_one_line_and_no_restart(tmp_path, environment):
    status, _, errors = finished(start(tmp_path, environment, "--set", "train.epochs=0"))
    assert status == 2
    assert errors.count("\n") == 1
    status, _, errors = finished(start(tmp_path, environment, "--set", "train.steps=2"))
    assert status == 0, errors
    status, _, errors = finished(start(tmp_path, environment, "--set", "train.steps=2"))
    assert status == 0
    assert "is already finished" in errors
    assert "training small-digits" not in errors
    (tmp_path / "run" / "result.json").unlink()
    status, _, errors = finished(start(tmp_path, environment, "--set", "train.steps=2", "--seed", "1"))
    assert status == 2
    assert errors.count("alexnet: ") == 1
    assert "Traceback" not in errors


def test_several_processes_evaluate_as_one_does(tmp_path, environment):
    environment |= {"OMP_NUM_THREADS": "1"}
    train = ["train", "--set", "train.steps=30", "--set", "model.width=0.125", "--set", "train.precision=fp32"]
    outputs = []
    for words in (train, ["evaluate", "runs/small-digits"], ["evaluate", "runs/small-digits", "--nproc", "3"]):
        words = [*words, "--device", "cpu", "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "alexnet", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert json.loads(outputs[1])["images"] == 360
    assert outputs[1] == outputs[2]
    words = ["evaluate", "runs/none", "--nproc", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "alexnet", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
