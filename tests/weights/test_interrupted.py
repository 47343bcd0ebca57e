"""``convert`` and ``export`` that are killed or stopped during a write leave nothing that looks whole.

One process imports all and forks one for each moment: the fork ends itself, by a signal, before its k-th call that
creates a folder, renames something or waits for the disk, for every k until the command is complete.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import alexnet
from alexnet.models.registry import create_model

RUN = """
import contextlib, copy, io, json, os, shutil, signal, sys, tempfile
from pathlib import Path
import torch
torch.set_num_threads(1)  # a forked process has no other threads
import alexnet.api
from alexnet.cli import convert, export, main as main_module
from alexnet.cli.main import main
from alexnet.weights.export import CheckImages, NotInstalledError
from alexnet.weights.exporters import c, onnx, safetensors

request = json.load(sys.stdin)
models = Path(request["models"])
if "onnx" in request["commands"]:
    def key(model):
        return float(model.conv1.weight.detach().sum())
    both = [alexnet.api.load_model(models / name) for name in ("old", "new")]
    graphs = {key(model): onnx.graph_of(model, alexnet.api.ExportOptions()) for model in both}
    # the tracing takes seconds, and nothing is written meanwhile
    onnx.graph_of = lambda model, options: copy.deepcopy(graphs[key(model)])
def not_checked(paths, images):
    raise NotInstalledError("not the subject here")
for module in (c, onnx, safetensors):
    module.outputs = not_checked
images = CheckImages(torch.zeros(1, 256, 256, 3, dtype=torch.uint8), "")
alexnet.api.sample_images = lambda *given: images
main_module.wait_politely = lambda: None

def stop_before(number, which):
    calls = 0
    def counted(real):
        def call(*given, **named):
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), which)
            return real(*given, **named)
        return call
    for name in ("fsync", "replace", "rename", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))

def run(words, folder):
    before = os.getcwd()
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    os.chdir(before)
    return status

def stopped(words, folder, number, which):
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    status = 70
    try:
        os.chdir(folder)
        sys.stdout = sys.stderr = open(os.devnull, "w")
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell ignores it
        stop_before(number, which)
        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code
    finally:
        os._exit(status)

def contents(folder):
    return {str(path.relative_to(folder)): value_of(path) for path in sorted(folder.rglob("*"))}

def value_of(path):
    if not path.is_file():
        return None
    data = path.read_bytes()
    if path.suffix == ".safetensors" and len(data) > 8:  # the order of its metadata is arbitrary
        end = 8 + int.from_bytes(data[:8], "little")
        data = json.dumps(json.loads(data[8:end]), sort_keys=True).encode() + data[end:]
    return data.hex()

def outcome(words, before, folder, number, which):
    shutil.copytree(before, folder)
    status = stopped(words, folder, number, which) if number else run(words, folder)
    after = contents(folder)
    again = run(words, folder) if number else 0
    found = {"signal": which, "status": status, "after": after, "again": again, "last": contents(folder)}
    shutil.rmtree(folder)
    return found

found = {}
memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where waiting for the disk takes no time
with tempfile.TemporaryDirectory(dir=memory) as scratch:
    for name, words in request["commands"].items():
        folder, before = Path(scratch) / "now", Path(scratch) / name
        before.mkdir()
        if words[0] == "convert":
            shutil.copy(models / "new.safetensors", before / "weights.safetensors")
        else:
            run([word.replace("/new", "/old") for word in words], before)
        moments = [outcome(words, before, folder, 0, 0)]  # this also imports what the forks need
        while moments[-1]["status"] or len(moments) == 1:
            moments.append(outcome(words, before, folder, len(moments), signal.SIGKILL))
        for number in range(1, len(moments) - 1, 2):
            which = signal.SIGINT if number % 4 == 1 else signal.SIGTERM
            moments.append(outcome(words, before, folder, number, which))
        found[name] = {"earlier": contents(before), "moments": moments}
print(json.dumps(found))
"""
COMMANDS = {
    "convert": ["convert", "weights.safetensors", "--out", "out"],
    "onnx": ["export", "MODELS/new", "--to", "onnx", "--out", "out.onnx"],
    "safetensors": ["export", "MODELS/new", "--to", "safetensors", "--out", "out.safetensors"],
    "c": ["export", "MODELS/new", "--to", "c", "--out", "out.c", "--golden", "MODELS/photo.png"],
}
STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two small networks, a weights file and a photograph."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("old", "new")):
        network = create_model("small", num_classes=3, in_channels=3, width=0.1, seed=seed)
        alexnet.save_model(network, folder / name)
        alexnet.export(folder / name, folder / f"{name}.safetensors", "safetensors", progress=False)
    Image.fromarray(load_sample_images().images[0]).save(folder / "photo.png")
    return folder


def words(command, models):
    return [word.replace("MODELS", str(models)) for word in COMMANDS[command]]


@pytest.fixture(scope="module")
def outcomes(models):
    """For each command: the folder before it, and what each stopped run and the run after it left."""
    request = {"commands": {command: words(command, models) for command in COMMANDS}, "models": str(models)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(request), capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_whenever_it_is_stopped_nothing_looks_whole_and_the_next_run_is_complete(command, outcomes):
    """Before an export, the folder has an earlier export of another network, which is whole or absent as well."""
    earlier, (complete, *moments) = outcomes[command]["earlier"], outcomes[command]["moments"]
    whole = [weights_in(earlier), weights_in(complete["after"])]
    assert whole[0] != whole[1]
    (finished,) = (moment for moment in moments if moment["status"] == 0)  # it came to its end before the last moment
    moments.remove(finished)
    assert {moment["signal"] for moment in moments} == set(STATUS)
    assert len(moments) >= 12
    for moment in moments:
        assert moment["status"] == STATUS[moment["signal"]]
        assert moment["again"] == 0
        assert moment["last"] == complete["after"]  # the next run left nothing of the stopped one
        visible = {name: data for name, data in moment["after"].items() if not name.startswith(".")}
        if moment["signal"] != signal.SIGKILL:
            assert visible == moment["after"]  # nothing was left
        if main_file(command) in visible:
            assert weights_in(visible) in whole
        report = visible.get(f"{main_file(command)}.check.json")
        if report and json.loads(bytes.fromhex(report))["finished"]:
            assert weights_in(visible) in whole


def main_file(command):
    return COMMANDS[command][-1] if command == "convert" else COMMANDS[command][COMMANDS[command].index("--out") + 1]


def weights_in(files):
    """The files that hold the network, without the report and the golden file of Python."""
    return {name: data for name, data in files.items() if not name.endswith((".check.json", ".npz"))}


@pytest.mark.slow
@pytest.mark.parametrize(("which", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_from_outside(which, status, models, tmp_path):
    """The write waits for the disk when the signal comes."""
    code = (
        "import os, sys, time, signal; from pathlib import Path; from alexnet.cli.main import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "os.fsync = lambda handle: (Path('here').touch(), time.sleep(60))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    (tmp_path / "weights.safetensors").write_bytes((models / "new.safetensors").read_bytes())
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words("convert", models)], cwd=tmp_path, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(alexnet.__file__).parents[1]), *sys.path])},
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "here").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(which)
        _, shown = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == status
    assert shown.decode() == ("alexnet: interrupted\n" if which == signal.SIGINT else "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "weights.safetensors"]


def test_a_leftover_of_a_killed_report_is_removed(models, tmp_path):
    """What ``write_bytes`` leaves beside the file, and a scratch folder, are gone after the next export."""
    for name in (".out.safetensors.check.json.0123abcd", ".out.safetensors.golden.npz.0123abcd", ".other.0123abcd"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".unfinished.out.safetensors.0123abcd").mkdir()
    alexnet.export(models / "new", tmp_path / "out.safetensors", "safetensors", progress=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".other.0123abcd", "out.safetensors", "out.safetensors.check.json",
    ]  # fmt: skip
    assert torch.equal(
        alexnet.load_model(tmp_path / "out.safetensors", progress=False).conv1.weight,
        alexnet.load_model(models / "new").conv1.weight,
    )
