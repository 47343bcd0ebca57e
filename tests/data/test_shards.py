"""Shards: the same images as the prepared dataset, through a cache that is checked, bounded and shared."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from alexnet.core.errors import UserError
from alexnet.core.files import sha256_json
from alexnet.data import remote, shard_cache
from alexnet.data.cache import list_cache, remove_cached
from alexnet.data.decode import read_pixels
from alexnet.data.prepared import open_or_prepare, open_prepared, verify_prepared
from alexnet.data.sampler import Sampler, block_order
from alexnet.data.shard_cache import ShardCache, Wanted
from alexnet.data.shard_writer import write_shards
from alexnet.data.shards import ShardPixels, open_shards
from alexnet.data.sources import open_source
from alexnet.data.splits import SPLITS

COUNT, SIDE = 60, 8
RECORD = SIDE * SIDE * 3


@pytest.fixture
def local(array_source, home):
    """A prepared dataset of 60 images in 3 classes, sorted by class."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    splits = ["train", "train", "val", "test"] * (COUNT // 4)
    return open_or_prepare(array_source(pixels, sorted([0, 1, 2] * (COUNT // 3)), splits))


@pytest.fixture
def written(local, tmp_path):
    """The shards of it, 7 images each, in a folder."""
    write_shards(local, str(tmp_path / "shards"), shard_bytes=7 * RECORD)
    return tmp_path / "shards"


def wanted(folder, number=0):
    shards = open_shards(str(folder))
    shard = shards.manifest.shards[number]
    return Wanted(remote.join(shards.address, shard.name), shard.bytes, shard.sha256)


def change_manifest(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    content.pop("sha256")
    path.write_text(json.dumps({**content, "sha256": sha256_json(content)}))


def test_shards_hold_the_same_dataset(local, written):
    dataset = open_or_prepare(open_source(str(written)))
    assert dataset.digest == local.digest
    assert dataset.shape == local.shape
    assert dataset.path != local.path
    for name in ("targets", "hashes", "groups", "splits", "mean_image"):
        assert np.array_equal(getattr(dataset, name), getattr(local, name))
    index = np.random.default_rng(1).permutation(COUNT)
    assert np.array_equal(dataset.read(index), local.images[index])
    assert np.array_equal(dataset.images, local.images)
    assert dataset.read(np.array([5, 5, 0])).tolist() == local.images[[5, 5, 0]].tolist()
    assert dataset.read(np.arange(0)).shape == (0, SIDE, SIDE, 3)
    assert dataset.names(index) == local.names(index)
    assert len(list(written.glob("shard-*"))) == 9
    assert verify_prepared(dataset.path) == []


def test_other_classes_do_not_close_the_files(local, written):
    for dataset in (open_or_prepare(open_source(str(written))), open_prepared(local.path)):
        other = dataset.with_classes([*local.classes, "more"], [*local.classes, "more"], [0, 1, 2])
        del dataset
        assert np.array_equal(other.read(np.arange(COUNT)), local.images)


def test_a_file_address_is_a_source_and_is_said_without_its_signature(local, written):
    source = open_source(f"{written.as_uri()}?sig=SECRET")
    assert "SECRET" not in source.location + repr(source)
    dataset = open_or_prepare(source)
    assert np.array_equal(dataset.images, local.images)
    assert "SECRET" not in (dataset.path / "shards.json").read_text()


def test_shards_are_written_once_and_not_over_others(local, written, array_source, monkeypatch):
    before = {path.name: path.stat().st_mtime_ns for path in written.iterdir()}
    write_shards(local, str(written))
    assert {path.name: path.stat().st_mtime_ns for path in written.iterdir()} == before
    other = open_or_prepare(array_source(np.zeros((4, 8, 8, 3), np.uint8), [0, 1] * 2, ["train"] * 4))
    with pytest.raises(UserError, match="holds shards of other images"):
        write_shards(other, str(written))
    with pytest.raises(UserError, match="are in shards already"):
        write_shards(open_or_prepare(open_source(str(written))), str(written.parent / "again"))


def test_an_interrupted_command_copies_only_what_is_missing(local, written, monkeypatch):
    (written / "manifest.json").unlink()
    next(written.glob("shard-00003-*")).unlink()
    copied = []
    real = remote.upload
    monkeypatch.setattr("alexnet.data.shard_writer.upload", lambda path, to: (copied.append(to), real(path, to)))
    write_shards(local, str(written), shard_bytes=7 * RECORD)
    assert len([name for name in copied if "shard-" in name]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(kind="something"), "is not a manifest of shards"),
        (lambda c: c.update(schema=99), "has schema 99"),
        (lambda c: c["shards"][0].update(name="../../etc/passwd"), "cannot be used"),
        (lambda c: c["files"][0].update(name=".."), "cannot be used"),
        (lambda c: c["files"][0].update(name="images.npy"), "unknown files"),
        (lambda c: c["shards"][0].update(bytes=1 << 40), "are the limit"),
        (lambda c: c["shards"][0].update(bytes=-1), "is not a valid count"),
        (lambda c: c["shards"][0].update(records=8), "do not hold all images"),
        (lambda c: c["shards"].pop(), "do not hold all images"),
        (lambda c: c.update(shape=[60, 9, 8, 3]), "images of"),
        (lambda c: c.update(records="pickle"), "records of 'pickle'"),
        (lambda c: c.pop("classes"), "is damaged"),
        (lambda c: c.update(data="0" * 64), "belongs to other images"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_one_line(written, change, message):
    change_manifest(written, change)
    with pytest.raises(UserError, match=message):
        source = open_source(str(written)) if "not a manifest" not in message else open_shards(str(written))
        open_or_prepare(source)


def test_a_changed_manifest_is_noticed(written):
    path = written / "manifest.json"
    path.write_text(path.read_text().replace("class 0", "class 9"))
    with pytest.raises(UserError, match="its sha256 differs"):
        open_source(str(written))


def test_shards_of_another_size_are_refused(written):
    with pytest.raises(UserError, match="hold images of 8 pixels, 3 channels, short-side; needed are 16 pixels"):
        open_or_prepare(open_source(str(written)), 16)
    with pytest.raises(UserError, match="holds prepared images, and this command needs the image files"):
        list(open_source(str(written)).records())


def test_a_folder_with_another_manifest_is_no_folder_of_shards(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "manifest.json").write_text('{"kind": "other"}')
    with pytest.raises(UserError) as caught:
        open_source(str(tmp_path))
    assert "manifest" not in str(caught.value)


def test_a_shard_that_was_replaced_is_an_error_and_never_a_pixel(local, written, monkeypatch):
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    dataset = open_or_prepare(open_source(str(written)))
    shard = next(written.glob("shard-00000-*"))
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with pytest.raises(UserError, match="is not the file that its manifest describes"):
        dataset.read(np.arange(COUNT))
    shard.unlink()
    with pytest.raises(UserError, match="there is no file"):
        dataset.read(np.arange(COUNT))


def test_a_bit_that_flips_in_the_cache_is_repaired(local, written):
    open_or_prepare(open_source(str(written))).read(np.arange(COUNT))
    shard = wanted(written)
    path = shard_cache.shard_cache().folder / shard.sha256
    data = bytearray(path.read_bytes())
    data[3] ^= 4
    path.write_bytes(data)
    fresh = ShardPixels(open_shards(str(written)), local.splits, ShardCache(path.parent))  # as another process has it
    assert np.array_equal(fresh.whole(), local.images)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == shard.sha256


def test_the_cache_keeps_to_its_size(local, written, tmp_path):
    cache = ShardCache(tmp_path / "cache", limit=3 * 7 * RECORD)
    pixels = ShardPixels(open_shards(str(written)), local.splits, cache)
    most = 0
    for index in np.random.default_rng(2).permutation(COUNT).reshape(-1, 5):
        assert np.array_equal(pixels.read(index), local.images[index])
        most = max(most, sum(path.stat().st_size for path in cache.folder.iterdir()))
    assert 7 * RECORD <= most <= 3 * 7 * RECORD


def test_a_shard_in_use_is_not_removed(written, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_cache, "WAIT", 0.5)
    monkeypatch.setattr(shard_cache, "LEASE", 0.01)
    cache = ShardCache(tmp_path / "cache", limit=7 * RECORD)
    other = ShardCache(cache.folder, limit=7 * RECORD)  # as another process has it
    with cache.use(wanted(written, 0)):
        for each in (cache, other):
            with (
                pytest.raises(UserError, match="set ALEXNET_SHARD_CACHE to a larger"),
                each.use(wanted(written, 1)),
            ):
                pass
    with other.use(wanted(written, 1)) as descriptor:
        assert os.pread(descriptor, RECORD, 0)
    with cache.use(wanted(written, 0)) as descriptor:  # removed meanwhile by the other
        assert os.pread(descriptor, RECORD, 0)


def test_a_shard_that_is_larger_than_the_cache_is_one_line(written, tmp_path):
    with pytest.raises(UserError, match="set ALEXNET_SHARD_CACHE"), ShardCache(tmp_path, limit=10).use(wanted(written)):
        pass


def test_a_part_that_a_killed_process_left_is_removed(written, tmp_path):
    cache = ShardCache(tmp_path / "cache", limit=8 * 7 * RECORD)
    (cache.folder / f".{'a' * 64}.part").write_bytes(bytes(8 * 7 * RECORD))
    with cache.use(wanted(written)):
        assert sorted(path.name for path in cache.folder.iterdir()) == [".lock", wanted(written).sha256]


def test_many_threads_download_each_shard_once(local, written, tmp_path, monkeypatch):
    counts = []
    real = remote.download
    monkeypatch.setattr(shard_cache, "download", lambda *given: (counts.append(given[0]), real(*given)))
    pixels = ShardPixels(open_shards(str(written)), local.splits, ShardCache(tmp_path / "cache"))
    pixels.prefetch(np.arange(COUNT))
    found = []
    threads = [threading.Thread(target=lambda: found.append(pixels.whole())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(each, local.images) for each in found)
    assert len(found) == 6
    assert sorted(counts) == sorted(set(counts))
    assert len(counts) == 9


PROCESS = """
import sys
import numpy as np
from alexnet.data.prepared import open_prepared
dataset = open_prepared(__import__("pathlib").Path(sys.argv[1]))
sys.stdout.buffer.write(dataset.read(np.random.default_rng(int(sys.argv[2])).permutation(60)).tobytes())
"""


def test_processes_share_a_cache_that_is_too_small(local, written, home):
    folder = open_or_prepare(open_source(str(written))).path
    environment = {**os.environ, "ALEXNET_SHARD_CACHE": f"{4 * 7 * RECORD / 1e6} MB"}
    command = [sys.executable, "-c", PROCESS, str(folder)]
    running = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, env=environment) for seed in range(3)]
    for seed, process in enumerate(running):
        output, _ = process.communicate(timeout=120)
        index = np.random.default_rng(seed).permutation(COUNT)
        assert output == local.images[index].tobytes()


@pytest.mark.parametrize("text", ["many", "0 GB", "-1 GB", "10", "10 XB"])
def test_a_wrong_size_of_the_cache_is_one_line(written, monkeypatch, text):
    monkeypatch.setenv("ALEXNET_SHARD_CACHE", text)
    with pytest.raises(UserError, match="is not a size: write it as 200GB"):
        open_or_prepare(open_source(str(written)))


def test_the_cache_command_lists_and_removes_shards(local, written, monkeypatch):
    dataset = open_or_prepare(open_source(str(written)))
    dataset.read(np.arange(COUNT))
    entries = {entry.name: entry for entry in list_cache()}
    assert entries["shards"].bytes == COUNT * RECORD
    assert str(written) in entries[dataset.path.name].source
    assert entries[dataset.path.name].used_by == "a running process uses it"
    with shard_cache.shard_cache().use(wanted(written)), pytest.raises(UserError, match="shards is not removed"):
        remove_cached(["shards"])
    monkeypatch.setattr(shard_cache, "LEASE", 0.0)
    shard_cache.shard_cache().release_idle()
    remove_cached(["shards"])
    assert "shards" not in {entry.name for entry in list_cache()}
    assert np.array_equal(dataset.images, local.images)  # they are downloaded again
    path = dataset.path
    del dataset
    remove_cached([path.name])
    assert not path.exists()


def test_an_open_dataset_is_locked(written):
    dataset = open_or_prepare(open_source(str(written)))
    with (dataset.path / "shards.json").open("r+b") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_block_lies_in_few_shards_and_holds_all_classes():
    splits = np.array([0] * 900 + [2] * 100, np.int8)[np.random.default_rng(0).permutation(1000)]
    order = block_order(splits)
    assert np.array_equal(np.sort(order), np.arange(1000))
    assert np.array_equal(splits[order], np.sort(splits))
    train = np.flatnonzero(splits == SPLITS.index("train"))
    sampler = Sampler(train, 30, 0, 100, splits)
    place = np.empty(1000, np.int64)
    place[order] = np.arange(1000)
    blocks = []
    for epoch in range(2):
        batches = [sampler.at(step)[1] for step in range(epoch * 30, epoch * 30 + 30)]
        whole = np.concatenate(batches)
        assert np.array_equal(np.sort(whole), train)
        blocks.append([place[part] // 100 for part in whole.reshape(9, 100)])
    assert all(len(set(block.tolist())) == 1 for epoch in blocks for block in epoch)
    assert [block[0] for block in blocks[0]] != [block[0] for block in blocks[1]]
    assert np.ptp(train[: len(train) // 9]) < np.ptp(sampler.at(0)[1])  # a sample of the whole set


def test_one_block_is_the_order_without_blocks():
    splits = np.zeros(90, np.int8)
    whole, blocks = Sampler(np.arange(90), 20, 3), Sampler(np.arange(90), 20, 3, 90, splits)
    assert all(np.array_equal(whole.at(step)[1], blocks.at(step)[1]) for step in range(10))


def photographs(folder):
    random = np.random.default_rng(5)
    for number in range(24):
        path = folder / "photos" / ("cat", "dog")[number % 2] / f"{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 50 + number, 3), dtype=np.uint8)).save(path, quality=90)
    (folder / "photos" / "cat" / "11.jpg").write_bytes(b"\xff\xd8damaged")
    return open_source(str(folder / "photos"))


def test_shards_of_image_files_give_the_same_pixels(tmp_path, home):
    source = photographs(tmp_path)
    local = open_or_prepare(source, 32)
    manifest = write_shards(local, str(tmp_path / "shards"), encoded=source, shard_bytes=20_000)
    assert len(manifest.shards) > 2
    dataset = open_or_prepare(open_source(str(tmp_path / "shards")), 32)
    assert dataset.digest == local.digest
    index = np.random.default_rng(1).permutation(len(local.targets))
    assert np.array_equal(dataset.read(index), local.images[index])


def test_another_decoder_is_noticed(tmp_path, home, monkeypatch):
    source = photographs(tmp_path)
    write_shards(open_or_prepare(source, 32), str(tmp_path / "shards"), encoded=source)
    dataset = open_or_prepare(open_source(str(tmp_path / "shards")), 32)
    monkeypatch.setattr("alexnet.data.shards.read_pixels", lambda *given: read_pixels(*given) ^ 1)
    with pytest.raises(UserError, match="has other pixels than when the shards were written"):
        dataset.read(np.arange(4))


def test_image_files_that_changed_or_are_none_are_one_line(tmp_path, home, array_source):
    source = photographs(tmp_path)
    local = open_or_prepare(source, 32)
    (tmp_path / "photos" / "cat" / "00.jpg").unlink()
    with pytest.raises(UserError, match="has changed since it was prepared"):
        write_shards(local, str(tmp_path / "shards"), encoded=source)
    arrays = array_source(np.zeros((4, 8, 8, 3), np.uint8), [0, 1] * 2, ["train"] * 4)
    with pytest.raises(UserError, match="is a set of arrays without image files"):
        write_shards(open_or_prepare(arrays), str(tmp_path / "shards"), encoded=arrays)
