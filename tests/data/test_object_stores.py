"""Shards in an object store: moto's server, which speaks as S3 does."""

import contextlib
import warnings

import numpy as np
import pytest

from alexnet.core.errors import UserError
from alexnet.data import remote
from alexnet.data.prepared import open_or_prepare
from alexnet.data.shard_writer import write_shards
from alexnet.data.sources import open_source

RECORD = 8 * 8 * 3


@pytest.fixture(scope="module")
def server():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # moto's, about its other services
        from moto.server import ThreadedMotoServer
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(server, monkeypatch):
    """An empty bucket, and credentials for it."""
    import boto3
    import s3fs

    settings = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "SECRET"}
    for name, value in {**settings, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(remote, "PAUSE", 0.0)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="images")
    yield client
    with contextlib.suppress(KeyError):
        for item in client.list_objects_v2(Bucket="images")["Contents"]:
            client.delete_object(Bucket="images", Key=item["Key"])
    client.close()


@pytest.fixture
def local(array_source, home):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    return open_or_prepare(array_source(pixels, [0, 1, 2] * 20, ["train", "train", "val", "test"] * 15))


def test_shards_in_a_bucket(bucket, local):
    write_shards(local, "s3://images/a/set", shard_bytes=7 * RECORD)
    keys = [item["Key"] for item in bucket.list_objects_v2(Bucket="images")["Contents"]]
    assert "a/set/manifest.json" in keys
    assert len([key for key in keys if "shard-" in key]) == 9
    dataset = open_or_prepare(open_source("s3://images/a/set"))
    assert dataset.digest == local.digest
    assert np.array_equal(dataset.images, local.images)
    write_shards(local, "s3://images/a/set")  # they are there
    with pytest.raises(UserError, match="other URLs are not fetched: download the images"):
        open_source("s3://images/nothing")
    with pytest.raises(UserError, match="other URLs are not fetched: download the images"):
        open_source("s3://no-such-bucket/set")


def test_an_object_that_is_replaced_or_removed_is_an_error(bucket, local):
    manifest = write_shards(local, "s3://images/set", shard_bytes=7 * RECORD)
    dataset = open_or_prepare(open_source("s3://images/set"))
    for change, message in (
        (lambda key: bucket.put_object(Bucket="images", Key=key, Body=bytes(7 * RECORD)), "is not the file that"),
        (lambda key: bucket.put_object(Bucket="images", Key=key, Body=b"short"), "is not the file that"),
        (lambda key: bucket.delete_object(Bucket="images", Key=key), "there is no file s3://images/set/shard-00000"),
    ):
        change(f"set/{manifest.shards[0].name}")
        with pytest.raises(UserError, match=message) as caught:
            dataset.images  # noqa: B018
        assert "SECRET" not in str(caught.value)


def test_a_large_file_is_read_whole(bucket, local, tmp_path):
    content = np.random.default_rng(3).bytes(3 * remote.BLOCK + 17)
    (tmp_path / "large").write_bytes(content)
    remote.upload(tmp_path / "large", "s3://images/large")
    assert remote.size_at("s3://images/large") == len(content)
    assert remote.read("s3://images/large", len(content)) == content


def test_s3_without_its_package_names_the_extra(monkeypatch):
    def absent(address, **settings):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", absent)
    with pytest.raises(UserError, match=r"pip install 'alexnet\[s3\]'"):
        remote.read("s3://bucket/x", 10)
