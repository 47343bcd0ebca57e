"""Models on the Hugging Face Hub: names, fetching, errors of the library, uploading, and the model card."""

import json
import shutil
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import constants as hub_constants
from huggingface_hub import errors as hub_errors
from PIL import Image
from sklearn.datasets import load_sample_images

import alexnet
from alexnet.cli.main import main
from alexnet.core.errors import UserError
from alexnet.models.registry import create_model
from alexnet.report.model_card import model_card
from alexnet.weights import hub
from alexnet.weights.hub import HubName, fetch_from_hub, parse_hub_name, push_to_hub
from alexnet.weights.load import file_stem, is_model, kind_without_run, load_model

NAME = "hub:someone/digits"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "model"
    alexnet.save_model(create_model("cifar-relu", num_classes=3, seed=1), folder)
    return folder


@pytest.fixture
def library(monkeypatch):
    """A stand-in for huggingface_hub; ``calls`` are the names and arguments of the functions that were called."""
    calls = []
    stub = SimpleNamespace(calls=calls)
    monkeypatch.setitem(sys.modules, "huggingface_hub", stub)
    monkeypatch.setattr(hub, "is_reachable", lambda: True)
    return stub


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hub:someone/digits", HubName("someone/digits", None)),
        ("hub:some.one/di-gits_2@v1.0", HubName("some.one/di-gits_2", "v1.0")),
        ("hub:a/b@refs/pr/3", HubName("a/b", "refs/pr/3")),
        (f"hub:a/b@{COMMIT}", HubName("a/b", COMMIT)),
    ],
)
def test_names(name, parts):
    assert parse_hub_name(name) == parts
    assert is_model(name)
    assert kind_without_run(name) == "a model on the hub"


@pytest.mark.parametrize(
    "name",
    ["hub:", "hub:digits", "hub:a/b/c", "hub:../b", "hub:a/..", "hub:a/b@", "hub:a/b@../c", "hub:a/b c", "hub:a/b.git",
     "hub:a--b/c", "hub:-a/b", f"hub:a/{'b' * 100}", "hub:a/b\n", "a/b"],
)  # fmt: skip
def test_what_is_no_name(library, name):
    with pytest.raises(UserError, match="is not a name on the hub"):
        fetch_from_hub(name)
    assert library.calls == []


def test_without_the_library(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["predict", NAME, "photo.jpg"]) == 2
    assert capsys.readouterr().err == (
        "alexnet: models on the hub need the package huggingface_hub: pip install 'alexnet[hub]'\n"
    )


def test_a_model_is_fetched_by_name_and_revision(library, model_folder):
    def snapshot_download(repository, *, revision, allow_patterns, library_name):
        library.calls.append((repository, revision, sorted(allow_patterns)))
        return str(model_folder)

    library.snapshot_download = snapshot_download
    network = load_model(f"{NAME}@v2")
    assert library.calls == [("someone/digits", "v2", ["model.json", "model.safetensors"])]
    pairs = zip(network.parameters(), load_model(model_folder).parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert file_stem(f"{NAME}@v2") == "someone-digits-v2"


@pytest.fixture
def cache(tmp_path, monkeypatch, model_folder):
    """The cache of huggingface_hub with our repository, as the library lays it out, and no network."""
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    monkeypatch.setattr(hub_constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    repository = tmp_path / "cache" / "models--someone--digits"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "blobs").mkdir()
    for file in model_folder.iterdir():  # as the library does: links to files that are named by their hashes
        shutil.copy(file, repository / "blobs" / f"hash-of-{file.stem}-{file.suffix[1:]}")
        (snapshot / file.name).symlink_to(f"../../blobs/hash-of-{file.stem}-{file.suffix[1:]}")
    return snapshot


def test_commands_take_a_model_of_the_cache_without_a_network(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(load_sample_images().images[0]).save("china.png")
    for model in (NAME, f"{NAME}@{COMMIT}", str(cache)):
        assert main(["predict", model, "china.png", "--json", "--device", "cpu"]) == 0
        assert len(json.loads(capsys.readouterr().out)[0]["predictions"]) == 3
    assert main(["summary", NAME]) == 0
    assert "cifar-relu" in capsys.readouterr().out
    assert main(["verify", NAME]) in (0, 1)
    assert "cifar-relu" in capsys.readouterr().out
    assert main(["show", "filters", NAME]) == 0
    assert (tmp_path / "filters-someone-digits.png").is_file()
    capsys.readouterr()
    assert main(["evaluate", NAME]) == 2
    assert "is a model on the hub, so its images are unknown: give --data SOURCE" in capsys.readouterr().err
    assert main(["convert", NAME]) == 2
    assert f"{NAME} is a folder" in capsys.readouterr().err
    assert main(["predict", "hub:someone/other", "china.png"]) == 2
    assert capsys.readouterr().err == (
        "alexnet: hub:someone/other was not found: it is not in the cache of the hub on this computer, and "
        "huggingface.co cannot be reached; connect to the network, or give a file or folder\n"
    )


def test_without_a_network_the_copy_in_the_cache_is_used_with_a_note(cache, notes):
    load_model(NAME, reporter=notes)
    assert notes.lines == [f"note: huggingface.co cannot be reached: the copy of {NAME} in the cache is used"]


def test_whether_the_hub_can_be_reached(monkeypatch):
    """A listening port, a closed one, a proxy, and the library's own setting."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert hub.is_reachable()
    assert not hub.is_reachable()
    assert hub.host() == "127.0.0.1"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert hub.is_reachable()
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub.is_reachable()


def test_an_upload_without_a_network_is_one_line(library, model_folder, monkeypatch):
    monkeypatch.setattr(hub, "is_reachable", lambda: False)
    with pytest.raises(UserError, match=f"^{NAME} was not written: huggingface.co cannot be reached; connect"):
        push_to_hub(model_folder, NAME, "card")
    assert library.calls == []


def test_weights_without_our_description(cache):
    (cache / "model.json").unlink()
    assert fetch_from_hub(NAME) == cache / "model.safetensors"
    (cache / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"someone/digits has no model.safetensors: it is no model"):
        fetch_from_hub(NAME)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "is only for users whom its owner accepts: ask for access on its page, then log in"),
        ("RepositoryNotFoundError", "there is no hub:someone/digits, or it is private: check the name, or log in"),
        ("RevisionNotFoundError", "there is no such revision; leave out @REVISION for the newest"),
        ("LocalEntryNotFoundError", "it is not in the cache of the hub on this computer, and huggingface.co cannot be"),
        ("HfHubHTTPError", "cannot be fetched: try again later"),
    ],
)
def test_errors_of_the_library(library, monkeypatch, kind, message):
    error = getattr(hub_errors, kind)
    raised = error.__new__(error)  # the arguments of these classes differ between versions
    Exception.__init__(raised, "made for this test")

    def snapshot_download(*_, **__):
        raise raised

    library.snapshot_download = snapshot_download
    with pytest.raises(UserError) as caught:
        fetch_from_hub(NAME)
    assert message in caught.value.line
    assert len(caught.value.line.splitlines()) == 1


def test_a_model_is_uploaded_with_its_card(library, model_folder):
    uploaded = {}

    def upload_folder(*, repo_id, folder_path, allow_patterns, commit_message):
        uploaded.update({name: (Path(folder_path) / name).read_bytes() for name in allow_patterns})
        return SimpleNamespace(commit_url=f"the commit of {repo_id}")

    library.create_repo = lambda repository, *, private, exist_ok: library.calls.append((repository, private, exist_ok))
    library.upload_folder = upload_folder
    card = model_card(model_folder, name=NAME, license_name="cc-by-4.0")
    assert push_to_hub(model_folder, NAME, card, private=True) == "the commit of someone/digits"
    assert library.calls == [("someone/digits", True, True)]
    assert uploaded.pop("README.md").decode() == card
    assert uploaded == {file.name: file.read_bytes() for file in model_folder.iterdir()}
    with pytest.raises(UserError, match="names a revision"):
        push_to_hub(model_folder, f"{NAME}@v1", card)


@pytest.fixture
def shelf(library, tmp_path):
    """The stand-in keeps what is uploaded in this folder and gives it back."""
    folder = tmp_path / "shelf"

    def upload_folder(*, repo_id, folder_path, allow_patterns, commit_message):
        shutil.copytree(folder_path, folder, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"the commit of {repo_id}")

    library.create_repo = lambda *_, **__: None
    library.upload_folder = upload_folder
    library.snapshot_download = lambda *_, **__: str(folder)
    return folder


def test_the_command_uploads_a_model_and_reads_it_back(shelf, model_folder, capsys):
    assert main(["export", str(model_folder), "--to", NAME]) == 0
    assert capsys.readouterr().out == (
        "uploaded: the commit of someone/digits\nread back from the hub: every weight is equal\n"
    )
    assert sorted(file.name for file in shelf.iterdir()) == ["README.md", "model.json", "model.safetensors"]
    assert main(["export", str(shelf / "model.safetensors"), "--to", "hub:someone/copy", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["address"] == "the commit of someone/copy"
    assert document["files"] == []


def test_weights_that_came_back_different_are_an_error(shelf, library, model_folder, tmp_path, capsys):
    alexnet.save_model(create_model("cifar-relu", num_classes=3, seed=2), tmp_path / "other")
    library.snapshot_download = lambda *_, **__: str(tmp_path / "other")
    assert main(["export", str(model_folder), "--to", NAME]) == 2
    assert "does not hold the weights that were uploaded" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--out", "a"], ["--int8"], ["--pixels"], ["--golden", "a"], ["--data", "digits"]])
def test_an_upload_has_no_options_of_files(shelf, model_folder, words, capsys):
    assert main(["export", str(model_folder), "--to", NAME, *words]) == 2
    assert "uploads the model as it is: leave out --out" in capsys.readouterr().err
    assert not shelf.exists()


def test_an_upload_that_is_refused(library, model_folder):
    class RefusedError(Exception):
        response = SimpleNamespace(status_code=403)

    def create_repo(*_, **__):
        raise RefusedError("made for this test")

    library.create_repo = create_repo
    with pytest.raises(UserError, match=r"you may not write to .*: log in with: hf auth login, with a token"):
        push_to_hub(model_folder, NAME, "card")


def test_a_damaged_model_is_not_uploaded(library, model_folder, tmp_path):
    shutil.copytree(model_folder, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(UserError):
        push_to_hub(tmp_path / "model", NAME, "card")
    assert library.calls == []


def test_the_card_of_a_model_without_a_run(model_folder):
    card = model_card(model_folder, name=NAME)
    front = card.split("---\n")[1]
    assert {line.split(":")[0] for line in front.splitlines()} == {"library_name", "pipeline_tag", "tags"}
    assert "- variant: `cifar-relu`, 82,403 parameters" in card
    assert "The training and the accuracy of these weights are unknown" in card
    assert "The licence of these weights is not stated" in card
    assert f"alexnet predict {NAME} photo.jpg" in card
    assert hub.CARD == "README.md"
