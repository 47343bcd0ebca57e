"""Each protection is tested: where it is removed, its test fails."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # all tests, one after another

ROOT = Path(__file__).parents[3]
REMOVED = {  # what is removed: the change of the code, and the test that must fail
    "a step is taken whatever its numbers": (
        "import torch\n"
        "patch('alexnet.training.step.all_finite', lambda loss, gradients: torch.ones((), dtype=torch.bool))",
        "tests/training/test_step.py::test_a_bad_batch_changes_nothing",
    ),
    "batch norms keep what a bad step did to them": (
        "patch('alexnet.training.step.running_averages', lambda model: [])",
        "tests/training/test_step.py::test_a_bad_batch_changes_nothing",
    ),
    "nobody holds a run": (
        "patch('alexnet.runtime.lock.fcntl.flock', lambda *given: None)",
        "tests/runtime/test_lock.py::test_the_second_is_told_who_holds_it",
    ),
    "checkpoints are not held against their manifest": (
        "patch('alexnet.runtime.checkpoint.verify', lambda path: None)",
        "tests/runtime/test_checkpoint.py::test_any_flipped_bit_is_noticed",
    ),
    "only the newest checkpoint is kept": (
        "real = alexnet.runtime.checkpoint.list_checkpoints\n"
        "import shutil\n"
        "def drop(root):\n"
        "    for old in real(root)[:-1]:\n"
        "        shutil.rmtree(old)\n"
        "    return real(root)\n"
        "patch('alexnet.runtime.checkpoint.list_checkpoints', drop)",
        "tests/runtime/test_checkpoint.py::test_two_are_kept_and_the_newest_is_read",
    ),
    "a pickle with a true manifest is loaded": (
        "import pickle; patch('alexnet.runtime.checkpoint.load_tensors', lambda path: pickle.loads(path.read_bytes()))",
        "tests/runtime/test_checkpoint.py::test_a_pickle_with_a_true_manifest_is_refused_and_not_run",
    ),
    "a disk that refuses leaves its litter": (
        "import contextlib\n"
        "@contextlib.contextmanager\n"
        "def in_place(path):\n"
        "    path.mkdir(parents=True, exist_ok=True)\n"
        "    yield path\n"
        "patch('alexnet.runtime.checkpoint.publish_folder', in_place)",
        "tests/runtime/test_checkpoint.py::test_a_disk_that_refuses_leaves_the_old_ones_intact",
    ),
    "a model's weights are not hashed": (
        "patch('alexnet.models.bundle.sha256_file', lambda path: alexnet.models.bundle.read_json("
        "path.with_name('model.json'))['sha256'] if path.with_name('model.json').exists() else '')",
        "tests/models/test_bundle.py::test_a_flipped_bit_is_noticed",
    ),
    "names from a model are shown as they are": (
        "patch('alexnet.models.bundle.printable', str)",
        "tests/models/test_bundle.py::test_names_in_a_description_are_shown_escaped",
    ),
    "labels of a store are not hashed": (
        "patch('alexnet.data.prepared._check_hashes', lambda path, meta: None)",
        "tests/data/test_prepared.py::test_one_flipped_bit_is_found_by_verification",
    ),
    "images come in no order": (
        "import numpy as np\n"
        "patch('alexnet.data.sampler.permutation', lambda key, epoch, count: np.zeros(count, np.int64))",
        "tests/data/test_sampler.py::test_each_image_comes_once_an_epoch",
    ),
    "predict prepares images its own way": (
        "real = alexnet.data.image_file.read_photograph\n"
        "patch('alexnet.inference.predictor.read_photograph', lambda data, *rest: real(data, *rest)[:, ::-1])",
        "tests/inference/test_predictor.py::test_a_photograph_is_prepared_as_the_store_prepared_it",
    ),
    "images may have any size": (
        "patch('alexnet.data.decode.MAX_PIXELS', 10**12)",
        "tests/data/test_decode.py::test_large_headers_are_refused_with_and_without_warnings_as_errors",
    ),
    "PNGs are taken as Pillow takes them": (
        "patch('alexnet.data.png.fault', lambda data: None)",
        "tests/data/test_png.py::test_a_picture_with_rows_missing_is_refused_although_pillow_takes_it",
    ),
    "any format that Pillow knows is opened": (
        "patch('alexnet.data.containers.kind_of', lambda data: 'PNG')",
        "tests/data/test_decode.py::test_what_is_no_image_is_named",
    ),
    "a tar's names are paths": (
        "patch('alexnet.data.sources.archives.safe_parts', lambda name: tuple(name.split('/')))",
        "tests/data/sources/test_tars.py::test_members_not_to_be_trusted_are_ignored_with_a_warning",
    ),
    "the files of a zip are not checked": (
        "from alexnet.data.sources import zips\n"
        "patch('alexnet.data.sources.zips._read', lambda file, entry, begin: zips._at(file, begin, entry.packed))",
        "tests/data/sources/test_zips.py::test_a_damaged_photograph_is_refused_alone_with_its_name",
    ),
    "a pipe is a file": (
        "patch('alexnet.core.files._check_regular', lambda path, status: None)",
        "tests/core/test_files.py::test_special_files_are_refused_at_once",
    ),
    "a header may promise any amount": (
        "patch('alexnet.data.sources.array_files._EXPANSION', 10**12)",
        "tests/data/sources/test_file_sets.py::test_damaged_idx_files",
    ),
}
RUN = """
import json, os, sys, tempfile, traceback
from unittest import mock
import pytest
import alexnet.data.containers, alexnet.data.decode, alexnet.data.png, alexnet.data.prepared, alexnet.data.sampler
import alexnet.api, alexnet.core.files, alexnet.data.sources.archives, alexnet.data.sources.array_files
import alexnet.data.sources.zips, alexnet.report.build
import alexnet.inference.predictor, alexnet.models.bundle
import alexnet.runtime.checkpoint, alexnet.runtime.lock, alexnet.training.step
import torch
torch.set_num_threads(1)  # a forked process has no other threads
def patch(name, value):
    mock.patch(name, value).start()
def run(change, node):
    exec(change, globals())
    return pytest.main([node, *options])
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # others take longer to import than a test
options = ["-n0", "-q", "-x", "-p", "xdist.plugin", "-p", "pytest_timeout", "-p", "no:cacheprovider", "--no-header",
           "--assert=plain"]
found = {}
for what, (change, node) in json.load(sys.stdin).items():
    with tempfile.TemporaryFile() as shown:
        pid = os.fork()
        if not pid:
            status = 70
            try:
                os.dup2(shown.fileno(), 1)
                os.dup2(shown.fileno(), 2)
                status = run(change, node)
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()  # the name of a function that is gone, for example
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        shown.seek(0)
        found[what] = status, shown.read().decode(errors="replace")
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    """Exit status and output of each test without its protection. One process imports all and forks one for each."""
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(REMOVED), capture_output=True, text=True, check=False, cwd=ROOT,
        timeout=1100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", REMOVED)
def test_a_test_fails_without_the_protection(what, found):
    status, shown = found[what]
    assert status == 1, f"{REMOVED[what][1]} did not fail:\n{shown[-4000:]}"
    assert " failed" in shown
