"""What a training leads to: the model's files and one count on images that no choice has seen."""

import pytest
from safetensors import SafetensorError

from alexnet.model.saved import load_model
from alexnet.runtime.log import Silent
from alexnet.runtime.run import start_or_continue
from alexnet.training.evaluate import evaluate_models
from alexnet.training.outcome import conclude, final_split
from alexnet.training.train import Training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def finish(make_digits_store, small_recipe, cpu, tmp_path):
    def finish(**splits):
        store = make_digits_store(**splits)
        run = start_or_continue(tmp_path / "run", small_recipe, 3, "digits", store.digest)
        training = Training(small_recipe, store, run, 3, cpu, Silent())
        return training, training.fit(lambda run: None)

    return finish


@pytest.mark.parametrize(
    ("splits", "split"),
    [({"train": 40, "val": 20, "test": 30}, "test"), ({"train": 40, "val": 20}, "val"), ({"train": 40}, None)],
)
def test_the_final_count_is_on_test_else_val_else_nothing(finish, cpu, splits, split):
    training, model = finish(**splits)
    result = conclude(training, model, 123.0)
    assert (result["split"], final_split(training.store)) == (split, split)
    assert result["splits"] == {"train": 40, "val": splits.get("val", 0), "test": splits.get("test", 0)}
    assert {name: result[name] for name in ("recipe", "seed", "steps", "views", "matrix_gflops")} == {
        "recipe": "least", "seed": 3, "steps": 3, "views": 1, "matrix_gflops": 123.0,
    }  # fmt: skip
    assert result["seconds"] > 0
    assert result["images_per_second"] == pytest.approx(40 / result["seconds"])
    assert result["hardware"]["precision"] == "fp32"
    assert result["last_epoch"]["epoch"] == 1
    assert ("top1" in result) is (split is not None)
    if split:
        saved = load_model(training.run.folder)
        (counts,) = evaluate_models([saved], [training.store], training.store.subset(split), cpu)
        assert counts.images == result["images"] == splits[split]
        assert (counts.top1 / counts.images, counts.loss / counts.images) == (result["top1"], result["loss"])


def test_a_full_disk_is_an_os_error_whoever_notices(finish, monkeypatch):
    training, model = finish(train=40)

    def refuse(*arguments):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("alexnet.model.saved.save_file", refuse)
    with pytest.raises(OSError, match="No space left on device"):
        conclude(training, model, 1.0)
    assert not training.run.model_folder.exists()
