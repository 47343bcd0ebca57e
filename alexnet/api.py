"""The commands as Python functions, which return values and print no results.

The commands in ``cli/`` call these functions and print their results. Progress is shown on stderr, as a bar on a
terminal or in a notebook, otherwise as lines of text; ``progress=False`` shows nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alexnet.analysis.preprocessing_trials import Payload, Trials, run_trials
from alexnet.analysis.probe import LayerProbe, ProbeResult, make_folds, score
from alexnet.analysis.similarity import aligned, centred_products, check_images, correlation_distances
from alexnet.analysis.verify import verify_weights
from alexnet.analysis.verify_images import with_trials
from alexnet.analysis.verify_report import VerifyReport
from alexnet.config import Recipe
from alexnet.core.errors import RUNS, ConnectionLostError, UnreadableError, UserError, cannot_read, cannot_write
from alexnet.core.files import sha256_file, write_bytes, write_text
from alexnet.core.names import is_url
from alexnet.core.schema import from_json, to_json
from alexnet.data.cache import CacheEntry, list_cache, remove_cached
from alexnet.data.identity import write_names
from alexnet.data.image_file import ImageLike, photographs_by_id
from alexnet.data.image_lists import ImageList, Row, list_of_source, open_images
from alexnet.data.prepared import PreparedDataset, open_prepared, prepared_path, verify_prepared
from alexnet.data.shard_writer import write_shards
from alexnet.data.shards import Records
from alexnet.data.sources import Record, Source, absolute_source, is_builtin, open_source
from alexnet.data.splits import evenly_spaced
from alexnet.data.writer import array_header
from alexnet.distributed.groups import check_divisible, check_settings, open_group
from alexnet.distributed.plan import NODE, REACHED, SETS, Device, Step, parse_devices, plan_steps
from alexnet.inference.detection import detect_files
from alexnet.inference.distance import Distances, distances_of_pairs, pairs_of_names, perceptual_distance
from alexnet.inference.feature_files import Features, NpyFolder, file_format, open_features, twin_folder
from alexnet.inference.features import BATCH, LayerExtractor, Pool, Request, computed_chunks, extract
from alexnet.inference.layer_names import activation_layers, rectified_in_place, resolve_layers
from alexnet.inference.predictor import Predictor, expand_folders, predict_files, shown_names
from alexnet.inference.segmentation import segment_files
from alexnet.inference.sort_into import SortedFolder
from alexnet.inference.transform import ImageTransform
from alexnet.kernels import accelerate as kernels
from alexnet.metrics.counts import CROSS_VALIDATED, Metrics
from alexnet.metrics.detection import DetectionMetrics, check_installed
from alexnet.metrics.segmentation import SegmentationMetrics
from alexnet.models.bundle import load_model as load_bundle
from alexnet.models.bundle import model_folder, save_model, task_of
from alexnet.models.classifier import Classifier
from alexnet.models.registry import (
    build,
    change_architecture,
    get_architecture,
    get_variant,
    list_models,
    untrained_twin,
)
from alexnet.models.summary import Summary, summarize
from alexnet.plots.curves import CurvesFile
from alexnet.plots.rdm import plot_rdm
from alexnet.recipes import get_recipe, is_recipe
from alexnet.report import build as report
from alexnet.report.markdown import write_report
from alexnet.report.model_card import model_card
from alexnet.report.tables import csv_rows
from alexnet.runtime.device import DeviceConfig, matrix_rate, resolve_device
from alexnet.runtime.group import ONE, Group, Parallel
from alexnet.runtime.log import NullReporter, Reporter, stage
from alexnet.runtime.progress import make_reporter
from alexnet.runtime.run import Run, lock_run_folder, source_commit, start_or_continue
from alexnet.runtime.run_names import run_folder
from alexnet.training import datasets as prepared_datasets
from alexnet.training.build import build_model, build_preprocessing, check_augmentation, fits_probe_only, resize_of
from alexnet.training.datasets import choose_test_images, open_dataset_for, remarks
from alexnet.training.disk import disk_need
from alexnet.training.evaluate import evaluate_models, match_classes, most_probable, prediction_rows
from alexnet.training.finalize import check_not_lost, finalize, predictions_in_folds, remove_checkpoints
from alexnet.training.loop import Training
from alexnet.training.resolve import requested_init, resolve
from alexnet.training.sample_images import sample_images
from alexnet.training.tasks import evaluate_task
from alexnet.training.transfer import Init, keep_init, open_init
from alexnet.weights.convert import ConversionReport, convert_file
from alexnet.weights.export import (
    ExportCheck,
    Exported,
    ExportOptions,
    check_exportable,
    export_and_report,
    get_exporter,
    golden_path,
    report_path,
)
from alexnet.weights.golden import write_golden
from alexnet.weights.hub import is_hub_name, parse_hub_name, push_to_hub
from alexnet.weights.load import (
    check_exists,
    file_stem,
    is_foreign_file,
    is_local_model,
    is_meant_as_path,
    is_model,
    kind_without_run,
    load_model,
    local_path,
    published_variant,
)

Model = Path | str | Classifier
"""A trained model: a run folder, a model folder, a weights file, the name of trained weights, ``hub:OWNER/NAME``, or
a loaded model."""

EXPORT_CHECKED = 64  # images on which an exported file is checked
INT8_CHECKED, INT8_CALIBRATION = 1000, 200
MOST_TWINS = 1000
LESS_MEMORY = "add --set train.batch_size={}"
PLANNED_BATCHES = (1024, 4096, 8192)
PREDICTIONS = "predictions.csv"  # in the run folder of a cross-validated model
MOST_BYTES = 4 << 30  # of all matrices that CKA compares

Labels = Path | str | Sequence[Path | str]
"""One or several files with the classes of images."""


def train(
    recipe: Recipe | str | None = None,
    *,
    data: Path | str | None = None,
    labels: Labels = (),
    out: Path | str | None = None,
    init: Path | str | None = None,
    seed: int = 0,
    overrides: Iterable[str] | Mapping[str, Any] = (),
    device: str | None = None,
    reference: bool = False,
    data_root: Path | str | None = None,
    weights_root: Path | str | None = None,
    keep_checkpoints: bool = False,
    parallel: Parallel = "data",
    progress: bool | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Train a recipe, evaluate the model and return the run: ``train("small-digits").result["top1"]``.

    An interrupted run of the same recipe, seed and images is resumed; if the images have changed since, it continues on
    those that it began with. A finished run is returned unchanged. ``progress=False`` shows no progress on stderr.

    ``recipe``: a name from ``alexnet list``, the path of a recipe's JSON file, a ``Recipe``, or None: the embedded
    digits, or with ``data`` the recipe for photographs. ``data``: the source of the images in place of the recipe's: a
    built-in name, ``NAME:PATH``, or the path of a folder of class folders. ``labels``: a file with the classes of the
    images in the folder ``data`` (by default the file's own folder), a CSV ``file,label[,split]`` or a list of lines
    "path label"; or several such files, whose names mean splits. ``out``: the run folder; if None, ``runs/<recipe>``,
    and ``runs/<recipe>-<folder>`` for images of your own. ``init``: the MODEL whose weights the training starts from,
    in place of the recipe's ``train.init``; ``"none"`` starts from new weights. The layers that fit are copied; the
    training keeps a copy of the model, so a resumed one does not need it. ``overrides``: changed fields of the recipe,
    ``{"train.epochs": 2}`` or ``["train.epochs=2"]``. ``device``: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None takes a GPU
    if there is one. ``reference``: use reference PyTorch layers instead of the fast kernels. ``data_root``: the first
    folder to search for built-in image sets. ``weights_root``: the first folder to search for published weights.
    ``keep_checkpoints``: keep the checkpoints of the finished run, which are
    removed otherwise once its model is verified. ``parallel``: how several processes that torchrun has started divide
    the work: ``"data"``, ``"hybrid"`` or ``"columns"``. ``reporter``: receives progress and messages instead of stderr.

    Raises ``UserError`` (a ``ValueError``) with one line for a mistake of the user, ``DivergedError`` (a ``UserError``)
    if the loss or a weight is no longer finite, and ``StoppedError`` after a checkpoint if a signal stopped the
    training.
    """
    with open_group(device, parallel) as group:
        if not group.is_first:
            return _join_training(group)
        plan = plan_training(
            recipe, data=data, labels=labels, out=out, init=init, overrides=overrides, device=group.device or device,
            reference=reference, data_root=data_root, weights_root=weights_root, keep_checkpoints=keep_checkpoints,
            reporter=reporter or make_reporter(progress),
        )  # fmt: skip
        plan.check_parallel(parallel, group.size)
        return _train(plan, seed, group)


@dataclass(frozen=True)
class TrainingPlan:
    """A training whose arguments were checked and whose images are prepared; nothing is in its run folder yet.

    ``location``, ``labels``: where the images and their classes are. ``init``: the weights that it starts from.
    """

    recipe: Recipe
    dataset: PreparedDataset
    run: Run
    location: str
    labels: Sequence[str]
    init: Init
    device_config: DeviceConfig
    reporter: Reporter
    keep_checkpoints: bool

    def check_parallel(self, parallel: Parallel, processes: int = 1) -> None:
        """Raise ``UserError`` if several processes cannot divide the work of this training in this way."""
        if processes > 1 and self.recipe.model.task == "detection":
            raise UserError(
                "detection trains in one process: leave out --nproc (its loss cannot be summed over processes)"
            )
        if parallel != "data":
            check_settings(self.recipe, parallel)
            check_divisible(build_model(self.recipe, self.dataset, 0, self.init.network), parallel)

    def start_or_continue(self, seed: int) -> Run:
        """See :func:`~alexnet.runtime.run.start_or_continue`."""
        return start_or_continue(
            self.run.folder, self.recipe, seed, self.location, self.dataset.digest, self.labels, self.init.digest
        )


def plan_training(
    recipe: Recipe | str | None,
    *,
    data: Path | str | None,
    labels: Labels,
    out: Path | str | None,
    init: Path | str | None,
    overrides: Iterable[str] | Mapping[str, Any],
    device: str | None,
    reference: bool,
    data_root: Path | str | None,
    weights_root: Path | str | None,
    keep_checkpoints: bool,
    reporter: Reporter,
) -> TrainingPlan:
    """Check the arguments of :func:`train` and prepare the images. Raises ``UserError``."""
    root = Path(data_root) if data_root else None
    label_files = _label_files(labels)
    data = label_files[0].parent if label_files and data is None else data
    overrides = overrides if isinstance(overrides, Mapping) else list(overrides)
    recorded = [str(path.resolve()) for path in label_files]
    try:
        source, recipe = resolve(recipe, data, overrides, root, reporter.log, label_files, init)
    except UserError:
        given = (data, recorded, recipe, out, overrides, init, device, weights_root)
        if plan := _plan_without_source(*given, reporter, reference=reference, keep_checkpoints=keep_checkpoints):
            return plan
        raise
    get_variant(recipe.model.variant)  # an unknown variant is reported before images are decoded, which takes long
    if recipe.model.task == "detection":
        check_installed()  # before images are decoded too
    device_config = resolve_device(device, recipe.train.precision, reference=reference)
    if out is not None and not str(out).strip():
        raise UserError("--out is empty: give a folder, or leave it out for runs/RECIPE")
    run = Run(Path(out or RUNS / default_name(recipe, data, source)))
    weights = open_init(recipe.train.init, run, weights_root, reporter)
    recipe = weights.fit_recipe(recipe, run)
    location = absolute_source(recipe.data.source, source, root)
    dataset = _images_to_train_on(run, recipe, source, location, recorded, reporter, keep_checkpoints=keep_checkpoints)
    return TrainingPlan(recipe, dataset, run, location, recorded, weights, device_config, reporter, keep_checkpoints)


def _plan_without_source(
    data: Path | str | None,
    labels: Sequence[str],
    recipe: Recipe | str | None,
    out: Path | str | None,
    overrides: Sequence[str] | Mapping[str, Any],
    init: Path | str | None,
    device: str | None,
    weights_root: Path | str | None,
    reporter: Reporter,
    *,
    reference: bool,
    keep_checkpoints: bool,
) -> TrainingPlan | None:
    """The plan of an interrupted training whose source is gone; its images are in the cache. None if there is none."""
    runs = [Run(Path(out))] if out else [Run(path.parent) for path in sorted(RUNS.glob("*/run.json"))]
    if data is None:
        return None
    init = requested_init(overrides, init)
    found = prepared_datasets.run_without_source(data, runs, recipe, overrides, init, labels)
    if found is None:
        return None
    run, dataset = found
    trained = run.recipe
    began = run.description
    reporter.log(
        f"note: {began['source']} is gone since the training in {run.folder} began: it continues on the images that it "
        "began with"
    )
    return TrainingPlan(
        trained, dataset, run, began["source"], tuple(began.get("labels") or ()),
        open_init(trained.train.init, run, weights_root, reporter),
        resolve_device(device, trained.train.precision, reference=reference), reporter, keep_checkpoints,
    )  # fmt: skip


def _train(plan: TrainingPlan, seed: int, group: Group) -> Run:
    """Train as planned, in the only process or in the first one of a group."""
    run, dataset, reporter = plan.run, plan.dataset, plan.reporter
    if not run.finished:
        with lock_run_folder(run.folder):
            run = plan.start_or_continue(seed)
            if not run.finished:
                if not fits_probe_only(plan.recipe, dataset):  # such a training has no checkpoints, and takes seconds
                    check_not_lost(run)
                prepared_datasets.note_use(dataset, run, reporter)
                fit_and_finish(
                    plan.recipe, dataset, run, seed, plan.device_config, reporter, plan.init.network,
                    keep_checkpoints=plan.keep_checkpoints, group=group,
                )  # fmt: skip
                report.add(run, dataset, plan.device_config, reporter)
                return run
    run = plan.start_or_continue(seed)
    if run.result.get("keep_checkpoints") is False:  # a kill after the result was written may have left them
        remove_checkpoints(run, reporter)
    if not (run.folder / "report.html").exists():
        report.add(run, dataset, plan.device_config, reporter)
    finished = f"{run.folder} is already finished, {run.result['steps']:,} steps"
    reporter.log(f"{finished}; to train again, choose another run folder")
    return run


def _images_to_train_on(
    run: Run,
    recipe: Recipe,
    source: Source,
    location: str,
    labels: Sequence[str],
    reporter: Reporter,
    *,
    keep_checkpoints: bool,
) -> PreparedDataset:
    """The images that an interrupted run began with, or those of the source as it is now, prepared if needed."""
    settings = recipe.data.resize_size, recipe.data.channels
    resize = resize_of(recipe)
    now = prepared_path(source, *settings, resize=resize, view=recipe.data.view)
    if begun := prepared_datasets.open_begun(run, recipe, location, labels, now, reporter):
        return begun
    if not run.finished:
        for line in disk_need(recipe, source).lines(run.folder, now, keep_checkpoints=keep_checkpoints):
            reporter.log(line)
    return prepared_datasets.prepare(source, *settings, reporter, resize=resize, view=recipe.data.view)[0]


def default_name(recipe: Recipe, data: Path | str | None, source: Source) -> str:
    """The name of the run folder in ``runs/``: the recipe's, followed by the folder's if the images are the user's own.

    So trainings on two folders do not collide.
    """
    own = data is not None and not is_builtin(str(data))
    return f"{recipe.name}-{source.name}" if own else recipe.name


def fit_and_finish(
    recipe: Recipe,
    dataset: PreparedDataset,
    run: Run,
    seed: int,
    device_config: DeviceConfig,
    reporter: Reporter,
    initial: Classifier | None = None,
    *,
    keep_checkpoints: bool,
    group: Group = ONE,
) -> None:
    """Train to the end, from the newest checkpoint if there is one, and write the files of a finished run.

    ``initial``: the model whose weights the training starts from. ``group``: the processes that train together; the
    others call :func:`_join_training`.
    """
    if initial is not None:
        keep_init(initial, run)
    plan = {
        "recipe": to_json(recipe), "dataset": str(dataset.path.resolve()), "run": str(run.folder.resolve()),
        "seed": seed, "bf16": device_config.bf16, "reference": device_config.reference, "init": initial is not None,
        "same": _must_be_equal(dataset), "shards": dataset.pixels.address,
    }  # fmt: skip
    group.from_first(lambda: json.dumps(plan).encode())
    with device_config.enough_memory(LESS_MEMORY.format(max(1, recipe.train.batch_size // 2))):
        matrix_gflops = matrix_rate(device_config)
        training = Training(recipe, dataset, run, seed, device_config, reporter, initial, group)
        curves = CurvesFile(recipe)
        finish(training, training.fit(curves), curves, matrix_gflops, keep_checkpoints=keep_checkpoints)


@dataclass(frozen=True)
class TrainingForecast:
    """What :func:`plan` computes.

    ``images``: training images, without those that the recipe holds out. ``epochs``: as many as the training has.
    ``total``: images of all its steps. ``link``: GB/s that each device sends. ``batch``: the global batch of the
    recipe.
    """

    recipe: str
    devices: str
    device: Device
    epochs: int
    images: int
    total: int
    batch: int
    reached: float
    link: float
    steps: Sequence[Step]

    def seconds(self, step: Step) -> float:
        """The time of the whole training with such steps."""
        return self.total / step.images_per_second


def plan(
    recipe: Recipe | str,
    devices: str,
    *,
    batches: Sequence[int] = (),
    images: int | None = None,
    classes: int | None = None,
    reached: float = REACHED,
    link: float | None = None,
) -> TrainingForecast:
    """What would limit a training on many devices, and how long it would take: arithmetic, nothing is run.

    ``devices``: their number and kind, such as ``"8xH100"``. ``batches``: global batches; by default the recipe's own,
    and those of 1,024, 4,096 and 8,192 that are larger. ``images``, ``classes``: of the training set; by default those
    of the recipe's built-in set, or the variant's classes. ``reached``: the share of the peak that a device reaches,
    above 0, at most 1. ``link``: GB/s that a device sends to others; by default that of its kind, inside a computer for
    up to 8 devices. The formulas are in ``distributed/plan.py``. Raises ``UserError``.
    """
    found = get_recipe(recipe) if isinstance(recipe, str) else recipe
    count, name, device = parse_devices(devices)
    for option, value in (("--images", images), ("--classes", classes), *(("--batch", batch) for batch in batches)):
        if value is not None and value < 1:
            raise UserError(f"{option} {value}: give 1 or more")
    if not 0 < reached <= 1:
        raise UserError(f"--reached {reached}: give a number above 0, at most 1")
    if link is not None and not 0 < link < math.inf:
        raise UserError(f"--link {link}: give a number above 0")
    if found.model.task == "detection" and count > 1:
        raise UserError("detection trains in one process, on one device: give --devices 1xNAME")
    row, changes = get_variant(found.model.variant), found.model.overrides()
    known = SETS.get(found.data.source)
    if images is None and known is None:
        raise UserError(f"recipe {found.name!r} has no images of its own: add --images N, the number to train on")
    its_images, its_classes, its_channels = known or (0, row.num_classes, row.in_channels)
    architecture = (
        change_architecture(row.architecture, **changes) if row.architecture and changes else row.architecture
    )
    network = build(
        found.model.variant, architecture, classes or its_classes, found.data.channels or its_channels,
        found.data.image_size, device="meta", head=found.model.head,
    )  # fmt: skip
    own = found.train.batch_size
    trained_on = max(1, round((images or its_images) * (1 - found.data.val_fraction)))
    steps_per_epoch = math.ceil(trained_on / own)
    epochs = max(found.train.epochs, math.ceil(found.train.min_steps / steps_per_epoch))
    total = min(epochs * trained_on, (found.train.steps or epochs * steps_per_epoch) * own)
    chosen = batches or sorted({own, *(batch for batch in PLANNED_BATCHES if batch > own)})
    steps = plan_steps(network, count, device, chosen, reached, link)
    speed = link or (device.link if count <= NODE else device.network)
    return TrainingForecast(
        found.name, f"{count}x{name}", device, epochs, trained_on, total, own, reached, speed, steps
    )  # fmt: skip


def _join_training(group: Group) -> Run:
    """Train in a process that is not the first of its group; returns the run, which the first process completes."""
    try:
        plan = json.loads(group.from_first(bytes))
    except ConnectionLostError:  # there is nothing to train; the first process has printed why
        return Run(Path())
    run, recipe = Run(Path(plan["run"])), from_json(Recipe, plan["recipe"])
    device_config = resolve_device(group.device, "bf16" if plan["bf16"] else "fp32", reference=plan["reference"])
    initial = load_bundle(run.init_folder) if plan["init"] else None
    dataset = open_prepared(Path(plan["dataset"]), plan["shards"])
    for name, value in _must_be_equal(dataset).items():
        if value != plan["same"][name]:
            raise UserError(f"process {group.rank} has another {name} than the first one: {value}")
    with device_config.enough_memory(LESS_MEMORY.format(max(1, recipe.train.batch_size // 2))):
        training = Training(recipe, dataset, run, plan["seed"], device_config, NullReporter(), initial, group)
        training.fit(lambda run: None)
    return run


def _must_be_equal(dataset: PreparedDataset) -> dict[str, object]:
    """What all processes of a group must have in common."""
    return {"prepared dataset": dataset.digest, "commit of alexnet": source_commit(), "torch": torch.__version__}


def finish(
    training: Training, model: Classifier, curves: CurvesFile, matrix_gflops: float, *, keep_checkpoints: bool
) -> None:
    """Write the model, the curves, the report and the result of a training, then remove its checkpoints.

    Of a cross-validated model also ``predictions.csv``: the prediction for each image by a probe that was not fitted on
    it.

    Raises ``UserError`` if a file cannot be written.
    """
    run, recipe = training.run, training.recipe
    try:
        result = {**finalize(training, model, matrix_gflops), "keep_checkpoints": keep_checkpoints}
        if found := training.cross_validation:
            write_text(run.folder / PREDICTIONS, csv_rows(predictions_in_folds(training.dataset, found)))
        if result["steps"]:
            curves.write(run, result if result["split"] else None)
        lines = [*remarks(training.dataset), *run.waiting()]
        text = write_report(recipe, result, lines, training.dataset.side)
        write_text(run.folder / "report.md", text)
        run.write_result(result)  # last: it shows that the run is complete
    except OSError as error:
        kept = "the training itself is done" if training.safe else "its last checkpoint could not be written either"
        again = f"{kept}: free disk space and repeat the command, which resumes from the last checkpoint"
        if training.only_fits_probe:
            again = "free disk space and repeat the command"
        raise UserError(f"cannot write the result to {run.folder}: {error.strerror or error}; {again}") from error
    if not keep_checkpoints:
        remove_checkpoints(run, training.reporter)


def evaluate(
    models: Model | Sequence[Model],
    data: Path | str | None = None,
    views: Literal[1, 10] = 1,
    *,
    labels: Labels = (),
    device: str | None = None,
    precision: str = "auto",
    reference: bool = False,
    data_root: Path | str | None = None,
    weights_root: Path | str | None = None,
    predictions: Path | str | None = None,
    progress: bool | None = None,
    reporter: Reporter | None = None,
) -> list[Metrics] | list[SegmentationMetrics | DetectionMetrics]:
    """The metrics of each model and, for several models, of their ensemble: ``evaluate("runs/small-digits")[0].top1``.

    The ensemble, last in the list, averages the probabilities of its models. A model given twice counts once. Of models
    for segmentation, the metrics are :class:`~alexnet.metrics.segmentation.SegmentationMetrics`, for detection
    :class:`~alexnet.metrics.detection.DetectionMetrics`, without an ensemble.

    ``models``: one or several run folders, model folders, weights files, names of trained weights or loaded models.
    ``data``: a source in place of the images of the models' own runs; models without a run need it. Of a source without
    its own splits, only images are used that no model was trained on. Classes are matched by name: a note names the
    model's classes that the images do not have, and a class that the model does not have is an error. ``views``: 1 is
    the centre crop, 10 averages corners, centre and their mirror images. ``predictions``: a CSV file that receives a
    row for each image: file, true, predicted, probability; of several models, of their ensemble. ``weights_root``: the
    first folder in which published weights are looked for. The other arguments are those of :func:`train`;
    ``precision``: ``"auto"``, ``"fp32"``, ``"bf16"``, or ``"int8"`` (weights, on a CPU).

    Raises ``UserError`` for a model or images that cannot be used, and for a class that a model does not have.
    """
    with open_group(device) as group:
        return _evaluate(
            group, models, data, views, labels, device, precision, data_root, weights_root, predictions,
            reporter or make_reporter(progress), reference=reference,
        )  # fmt: skip


def _evaluate(
    group: Group,
    models: Model | Sequence[Model],
    data: Path | str | None,
    views: Literal[1, 10],
    labels: Labels,
    device: str | None,
    precision: str,
    data_root: Path | str | None,
    weights_root: Path | str | None,
    predictions: Path | str | None,
    reporter: Reporter,
    *,
    reference: bool,
) -> list[Metrics] | list[SegmentationMetrics | DetectionMetrics]:
    """What :func:`evaluate` does in each process of a group."""
    named = _named_models(models)
    reporter = reporter if group.is_first else NullReporter()
    device_config = resolve_device(group.device or device, precision, reference=reference)
    if predictions is not None and (Path(predictions).is_dir() or not Path(predictions).parent.is_dir()):
        raise UserError(f"--predictions {predictions}: give a file in a folder that exists")
    for name, model in named.items() if data is None and not labels else ():
        if isinstance(model, Classifier):
            raise UserError(f"{name} is a loaded model, so its images are unknown: give data=SOURCE")
        if kind := kind_without_run(model):
            raise UserError(f"{name} is {kind}, so its images are unknown: give --data SOURCE")
    networks = group.in_turn(lambda: [_loaded(model, weights_root, reporter) for model in named.values()])
    for name, network in zip(named, networks, strict=True):
        if views == 10 and network.preprocessing.crop == network.preprocessing.resize_size:
            raise UserError(f"{name} was trained on whole images, without augment.crop: ten views need a crop")
    root = Path(data_root) if data_root else None
    files = _label_files(labels)
    datasets = group.in_turn(
        lambda: [
            open_dataset_for(name, net, data, root, reporter, files)
            for name, net in zip(named, networks, strict=True)
        ]
    )  # fmt: skip
    group.wait_for_all()  # listing the images of a source can take long
    if data is None and not labels:
        _check_test_images(named.values())
    split, index = choose_test_images(networks, datasets[0])
    if split == "training":
        raise UserError(
            f"every image of {datasets[0].name} was used for training, so there is none to evaluate on: give other "
            "images with --data (the cross-validated accuracy of a training on few images is in its report.md)"
        )
    if any(network.task != "classification" for network in networks):
        return _evaluate_each(
            named, networks, datasets, index, split, views, predictions, device_config, reporter, group
        )
    best: list[tuple[int, float] | None] = []
    with device_config.enough_memory("give fewer models at a time, or --device cpu"):
        measured = evaluate_models(
            networks, datasets, index, device_config, views, reporter,
            lambda output: best.extend(most_probable(output)), group,
        )  # fmt: skip
    if predictions is not None and group.is_first:
        _write_predictions(Path(predictions), datasets[0], index, best)
    for metrics, name in zip(measured, [*named, "ensemble"], strict=False):
        metrics.name, metrics.split = name, split
    return measured


def _evaluate_each(
    named: Iterable[str],
    networks: Sequence[Classifier],
    datasets: Sequence[PreparedDataset],
    index: NDArray[np.int64],
    split: str,
    views: int,
    predictions: Path | str | None,
    device_config: DeviceConfig,
    reporter: Reporter,
    group: Group,
) -> list[SegmentationMetrics | DetectionMetrics]:
    """The metrics of each model for segmentation or detection; there is no ensemble."""
    if views == 10:
        raise UserError("--views 10 averages the classes of images: leave it out for masks and boxes")
    if predictions is not None:
        raise UserError(
            "--predictions gives the class of each image: for masks and boxes, use alexnet predict MODEL IMAGES --out "
            "FOLDER"
        )
    measured = []
    for name, network, dataset in zip(named, networks, datasets, strict=True):
        if network.task != networks[0].task or network.task == "classification":
            raise UserError(f"{name} is a model for {network.task}: evaluate models of one task at a time")
        with device_config.enough_memory("--device cpu"):
            metrics = evaluate_task(network, dataset, index, device_config, reporter, group)
        metrics.name, metrics.split = name, split
        measured.append(metrics)
    return measured


def _check_test_images(models: Iterable[Model]) -> None:
    """Raise ``UserError`` for a run whose model was fitted on all of its images: its own images are no test images."""
    for model in models:
        run = None if isinstance(model, Classifier) else Run(run_folder(str(model)))
        if run is not None and run.finished and run.result["split"] == CROSS_VALIDATED:
            raise UserError(
                f"the model of {run.folder} was fitted on all of its images: give other images with --data (its "
                "report.md has the cross-validated accuracy)"
            )


def _write_predictions(
    path: Path, dataset: PreparedDataset, index: NDArray[np.int64], best: Sequence[tuple[int, float] | None]
) -> None:
    """Write a CSV file with a row for each image; one whose output is not finite has no prediction."""
    try:
        write_text(path, csv_rows(prediction_rows(dataset, index, best)))
    except OSError as error:
        raise cannot_write(path, error, "give another file") from error


def _label_files(labels: Labels) -> list[Path]:
    files = [labels] if isinstance(labels, Path | str) else labels
    return [Path(path if is_url(str(path)) else os.path.abspath(os.path.expanduser(path))) for path in files]  # noqa: PTH100, PTH111 – never raise


def _named_models(models: Model | Sequence[Model]) -> dict[str, Model]:
    """Name → model, each model once: a path as it was given, a loaded model by its variant and a number."""
    given = [models] if isinstance(models, Path | str | Classifier) else list(models)
    if not given:
        raise UserError("there is no model to evaluate: give one or several")
    once: dict[object, Model] = {}
    for model in given:
        once[id(model) if isinstance(model, Classifier) else _place(model)] = model
    named: dict[str, Model] = {}
    for model in once.values():
        name = model.variant or "model" if isinstance(model, Classifier) else str(model)
        taken = sum(other == name or other.startswith(f"{name} (") for other in named)
        named[f"{name} ({taken + 1})" if taken else name] = model
    return named


def _place(model: Path | str) -> Path:
    """The file or folder with the weights of a MODEL; published weights are not looked for.

    Raises ``UserError`` if there is no such MODEL.
    """
    check_exists(model)
    return (Path(model) if kind_without_run(model) else model_folder(model)).resolve()


def _loaded(model: Model, weights_root: Path | str | None, reporter: Reporter) -> Classifier:
    if isinstance(model, Classifier):
        return model
    return load_model(model, weights_root=weights_root, reporter=reporter)


def predict(
    model: Model,
    images: Iterable[str],
    top_k: int = 5,
    *,
    device: str | None = None,
    precision: str = "auto",
    reference: bool = False,
    stdin: bytes | None = None,
    threshold: float | None = None,
    sort_into: Path | str | None = None,
    out: Path | str | None = None,
    names: Path | str | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
) -> Iterator[dict[str, Any]]:
    """Predictions for image files and folders: a dict for each image, in order.

    ``image`` is its path; ``predictions`` a list of ``label``, ``name`` and ``probability``, most probable first; or
    ``error`` says why it was refused. ``stdin``: the image that ``-`` stands for. ``threshold``, 0 … 1: with it,
    ``none_of_these`` is True if no class reaches this probability. ``sort_into``: a folder that receives a copy of each
    image, in a folder for its most probable class, or in ``none of these/``; the copy's path is ``copied_to``. Files
    are never moved or overwritten. Of a model for segmentation, the dict has ``shares`` instead, of one for detection
    ``objects``, and ``out`` is a folder that receives pictures of each image, see ``segment_files`` and
    ``detect_files``; ``threshold`` is then the least score of an object. If one of the images is a DICOM
    file, ``image`` is a number for all of them; ``names``: as in :func:`prepare`. ``weights_root``: as in
    :func:`evaluate`. ``progress``: None shows it for many images, False never.

    Raises ``UserError`` for a model that cannot be read and for a copy that cannot be written. For one image,
    :class:`~alexnet.inference.predictor.Predictor` is simpler.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"threshold = {threshold}: give a probability from 0 to 1")
    images, reporter = list(images), make_reporter(progress)
    device_config = resolve_device(device, precision, reference=reference)
    predictor = Predictor(_loaded(model, weights_root, reporter), device_config)
    task, drawn = predictor.model.task, None if out is None else Path(out)
    if task != "classification" and sort_into is not None:
        raise UserError("--sort-into is for models that give each image a class: leave it out")
    if task == "segmentation":
        if threshold is not None:
            raise UserError("--threshold is for models that give each image a class or find objects: leave it out")
        return segment_files(predictor, images, stdin, drawn, reporter)
    if task == "detection":
        return detect_files(predictor, images, stdin, drawn, reporter, threshold)
    if out is not None:
        raise UserError("--out is for masks and boxes: leave it out; --csv writes a table")
    folder = SortedFolder(Path(sort_into), predictor.model.classes) if sort_into is not None else None
    if folder:
        folder.check_inputs(images)
    if names is not None:
        files = list(expand_folders(images))
        pairs = zip(shown_names(files), files, strict=True)
        write_names(Path(names), ((name, file) for name, file in pairs if name != file))
    return predict_files(predictor, images, top_k, stdin, threshold=threshold, sort_into=folder, reporter=reporter)


def distance(
    model: Model,
    first: str,
    second: str | None = None,
    *,
    matrix: bool = False,
    resize: bool = False,
    heads: Path | str | None = None,
    device: str | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
) -> Distances:
    """The perceptual distances of image files, see :func:`~alexnet.inference.distance.perceptual_distance`.

    ``first``, ``second``: two images, or two folders, of which images with the same relative path are compared.
    ``matrix``: each image of ``first`` with each of ``second``; without ``second``, every pair of images of ``first``.
    ``resize``: use the model's preprocessing, with its resizing and crop, instead of the images' own size. A pair that
    cannot be compared has an ``error``.

    Raises ``UserError`` for a model or heads that cannot be used, and if there is no pair.
    """
    pairs = pairs_of_names(first, second, matrix=matrix)
    reporter = make_reporter(progress)
    device_config = resolve_device(device, "fp32")
    measure = perceptual_distance(_loaded(model, weights_root, reporter), heads).to(device_config.device)
    measured = []
    with device_config.enough_memory("give smaller images or --resize"), stage(reporter, "comparing", len(pairs)):
        for pair in distances_of_pairs(measure, pairs, resize=resize):
            measured.append(pair)
            reporter.advance(len(measured))
    return Distances(tuple(measured), measure.heads_name, measure.is_lpips)


def extract_features(
    model: Model,
    images: Path | str | Sequence[ImageLike],
    layers: str | Sequence[str],
    out: Path | str,
    *,
    pool: Pool = "none",
    untrained: int = 0,
    rdm: bool = False,
    batch: int = BATCH,
    names: Path | str | None = None,
    device: str | None = None,
    precision: str = "fp32",
    reference: bool = False,
    data_root: Path | str | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
) -> Features:
    """Write the outputs of layers for many images: ``extract_features("runs/a", "photos", "relu5,fc6", "out")["fc6"]``.

    The result gives each layer as an array ``(rows, C, H, W)`` or ``(rows, units)`` float32, memory-mapped if ``out``
    is a folder. An image that cannot be read keeps its row, of NaN; ``table()`` has the reason. An interrupted
    extraction is continued by the same call. On one machine, with one number of threads, the bits are the same for any
    ``batch`` and after any interruption. Processes that torchrun has started together share the images, with the same
    bits.

    ``images``: a folder, a tar or zip, a text file with paths, the folder of a prepared dataset or a source; or a
    sequence of images as :class:`~alexnet.inference.predictor.Predictor` takes them. ``layers``: names of the paper
    (``conv5`` before, ``relu5`` after the ReLU), for the ``torchvision`` variant also torchvision's
    (``features.10``); a text with commas, or a sequence. ``out``: a folder, or a file that ends in ``.npz`` (up to
    1 GB), ``.h5`` or ``.parquet``. ``pool``: ``"mean"`` or ``"max"`` over the positions of feature maps, which gives
    ``(rows, C)``; ``"none"`` keeps them whole. ``untrained``: the number of untrained twins, of random seeds 0, 1, …,
    whose features are also computed: ``untrained-0/relu5``. ``rdm``: also write ``rdm-LAYER.npy``, the correlation
    distances ``(rows, rows)`` float64 of all pairs of images, and a picture of them. ``batch``: images that are read at
    a time. ``names``: as in :func:`prepare`. The other arguments are those of :func:`evaluate`, but the default
    precision is fp32.

    Raises ``UserError`` for a model, images, layers or files that cannot be used.
    """
    if not str(out).strip():
        raise UserError("--out is empty: give a folder, or a file that ends in .npz, .h5 or .parquet")
    if not 0 <= untrained <= MOST_TWINS:
        raise UserError(f"--untrained {untrained}: give a number from 0 to {MOST_TWINS:,}")
    if batch < 1:
        raise UserError(f"--batch {batch}: give 1 or more")
    if precision == "int8":
        raise UserError("--precision int8: features are computed in fp32 or bf16")
    is_folder = isinstance(file_format(Path(out)), NpyFolder)  # a wrong name is refused before anything is loaded
    if rdm and not is_folder:
        raise UserError(f"--rdm writes files beside the features: give a folder with --out instead of {out}")
    with open_group(device) as group:
        reporter = make_reporter(progress) if group.is_first else NullReporter()
        return _extract_features(
            group, model, images, layers, Path(out), pool, untrained, batch, device, precision, data_root, weights_root,
            names, reporter, rdm=rdm, reference=reference,
        )  # fmt: skip


def _extract_features(
    group: Group,
    model: Model,
    images: Path | str | Sequence[ImageLike],
    layers: str | Sequence[str],
    out: Path,
    pool: Pool,
    untrained: int,
    batch: int,
    device: str | None,
    precision: str,
    data_root: Path | str | None,
    weights_root: Path | str | None,
    names: Path | str | None,
    reporter: Reporter,
    *,
    rdm: bool,
    reference: bool,
) -> Features:
    """What :func:`extract_features` does in each process of a group."""
    device_config = resolve_device(group.device or device, precision, reference=reference)
    network = group.in_turn(lambda: _loaded(model, weights_root, reporter))
    layer_names = resolve_layers(network, layers)
    for name, seen in rectified_in_place(network, layer_names).items():
        reporter.log(
            f"note: {name} is {layer_names[name]}, before the ReLU; a hook on torchvision's own network sees {seen} "
            "there, because its ReLU works in place"
        )
    root = Path(data_root) if data_root else None
    found = group.in_turn(lambda: open_images(images, root, reporter.log))
    group.wait_for_all()  # listing the images can take long
    for line in found.warnings:
        reporter.log(f"note: {line}")
    if names is not None and found.records and group.is_first:
        write_names(
            Path(names), ((record.name, record.file) for record in found.records(range(found.count)) if record.file)
        )
    if rdm:
        check_images(found.count)
    twins = {twin_folder(seed): functools.partial(untrained_twin, network, seed) for seed in range(untrained)}
    request = Request(network, {"": lambda: network, **twins}, found, layer_names, pool, device_config, batch)
    with device_config.enough_memory("give fewer layers, --pool mean, or --device cpu"):
        features = extract(request, out, reporter, group)
    if bad := features.description["unreadable"]:
        reporter.log(f"note: {bad:,} of {features.rows:,} images could not be read: their rows are NaN")
    if rdm and group.is_first:
        _write_rdms(features, reporter)
    return features


def _write_rdms(features: Features, reporter: Reporter) -> None:
    """Write the RDM of each array and its picture, but those that are there already."""
    classes = [class_name for _, class_name, _ in features.table()]
    keys = features.layers
    with stage(reporter, "dissimilarity matrices", len(keys)):
        for done, key in enumerate(keys, 1):
            matrix, picture = rdm_path(features, key), rdm_path(features, key).with_suffix(".png")
            if not (matrix.is_file() and picture.is_file()):
                distances = correlation_distances(features[key])
                header = array_header(distances.dtype, distances.shape)
                try:
                    write_bytes(matrix, header + distances.tobytes())
                    plot_rdm(distances, classes, f"dissimilarity of {key}, {features.rows:,} images").save(picture)
                except OSError as error:
                    raise cannot_write(matrix, error, "free disk space and repeat the command") from error
            reporter.advance(done)


def rdm_path(features: Features, key: str) -> Path:
    """The file of the dissimilarity matrix of an array; its picture has the same name with ``.png``."""
    folder, _, name = key.rpartition("/")
    return features.path / folder / f"rdm-{name}.npy"


def compare_features(features: Features, others: Sequence[Path | str] = ()) -> list[dict[str, Any]]:
    """CKA between all arrays of ``features``; with ``others``, between them and the arrays of these folders or files.

    A dict for each pair: ``a``, ``b``, ``cka`` (Kornblith et al. 2019, linear kernel) and ``cka_unbiased``, which is
    near 0 for unrelated features also if there are few images. Images that could not be read are left out. Raises
    ``UserError`` for features of other images, and if there is nothing to compare.
    """
    opened = {str(path): open_features(path) for path in others}
    table = features.table()
    kept = np.array([not error for _, _, error in table])
    for path, other in opened.items():
        theirs = other.table()
        if [file for file, _, _ in theirs] != [file for file, _, _ in table]:
            raise UserError(
                f"{path} and {features.path} are features of different images: CKA needs the same images in one order"
            )
        kept &= [not error for _, _, error in theirs]
    arrays = [(key, features, key) for key in features.layers]
    compared = [(f"{path}/{key}", other, key) for path, other in opened.items() for key in other.layers]
    if len(arrays) < 2 and not compared:
        raise UserError("CKA compares two arrays: give several --layers, or --cka FEATURES of another model")
    if 8 * len(kept) ** 2 * len(arrays + compared) > MOST_BYTES:
        raise UserError(
            f"CKA of {len(arrays + compared)} arrays of {len(kept):,} images needs too much memory: give fewer"
        )
    products = {name: centred_products(found[key], kept) for name, found, key in arrays + compared}
    names = [name for name, _, _ in arrays]
    pairs = [(a, b) for a in names for b, _, _ in compared] if compared else list(itertools.combinations(names, 2))
    return [
        {
            "a": a, "b": b, "cka": aligned(products[a], products[b]),
            "cka_unbiased": aligned(products[a], products[b], unbiased=True),
        }
        for a, b in pairs
    ]  # fmt: skip


def probe(
    model: Model,
    data: Path | str | None = None,
    layers: str | Sequence[str] = (),
    *,
    labels: Labels = (),
    images: int | None = None,
    seed: int = 0,
    device: str | None = None,
    precision: str = "fp32",
    reference: bool = False,
    data_root: Path | str | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
) -> ProbeResult:
    """How well a linear classifier on each layer tells the classes of ``data`` apart, by cross-validation.

    ``probe("torchvision/imagenet", "pets").layers[0].trained.accuracy``. The features are means over the positions of
    feature maps; they are standardised, and classified by logistic regression with C = 0.01. The control is the same
    layer of an untrained network of the same architecture, random seed 0, on the same folds. The test images of a
    source that has others too are left out, so that they can be counted later.

    ``layers``: as in :func:`extract_features`; none for all activations. ``images``: at most this many images, evenly
    spaced over the classes. ``seed``: of the folds. ``labels``: as in :func:`train`. The other arguments are those of
    :func:`extract_features`. Raises ``UserError`` for a model, layers or images that cannot be used, and for a class of
    one image.
    """
    reporter = make_reporter(progress)
    if images is not None and images < 1:
        raise UserError(f"--images {images}: give 1 or more")
    files = _label_files(labels)
    if data is None and not files:
        raise UserError("a probe needs images: give --data SOURCE")
    device_config = resolve_device(device, precision, reference=reference)
    network = _loaded(model, weights_root, reporter)
    names = resolve_layers(network, layers or activation_layers(network))
    root = Path(data_root) if data_root else None
    source = open_source(str(files[0].parent if data is None else data), root, reporter.log, files)
    chosen, splits = _probe_images(source, images)
    listed = list_of_source(chosen)
    rows, features = _mean_features(network, listed, names, device_config, "features", reporter)
    if not rows:
        raise UserError(f"{source.location}: none of its images can be read")
    twin = untrained_twin(network, 0)
    _, control = _mean_features(twin, listed, names, device_config, "features of an untrained network", reporter)
    numbers = {name: number for number, name in enumerate(source.classes)}
    targets = np.array([numbers[row.class_name] for row in rows], np.int64)
    hashes = np.array([row.digest for row in rows], np.uint64)
    folds = make_folds(targets, hashes, source.classes, seed)
    scores = []
    with stage(reporter, "fitting", len(names)):
        for done, name in enumerate(names, 1):
            pair = (score(found[name], targets, folds) for found in (features, control))
            scores.append(LayerProbe(name, features[name].shape[1], *pair))
            reporter.advance(done)
    return ProbeResult(
        images=len(rows), classes=len(np.unique(targets)), folds=len(folds),
        largest_class=float(np.bincount(targets).max() / len(targets)), splits=splits,
        copies=len(rows) - len(np.unique(hashes)),
        trained_on=int(np.isin(hashes, network.trained_on.numpy().view(np.uint64)).sum()),
        unreadable=listed.count - len(rows), layers=tuple(scores),
    )  # fmt: skip


def _probe_images(source: Source, most: int | None) -> tuple[Source, tuple[str, ...]]:
    """The images of a source that a probe uses, and the names of their splits: not those of test if there are others.

    ``most``: at most this many, evenly spaced over the classes.
    """
    pairs = [(record.label, record.split) for record in source.records()]
    index = np.array([number for number, (_, split) in enumerate(pairs) if split != "test"], np.int64)
    if not len(index):
        index = np.arange(len(pairs))
    if most is not None:
        by_class = index[np.argsort([pairs[number][0] for number in index.tolist()], kind="stable")]
        index = np.sort(evenly_spaced(by_class, most))
    kept = set(index.tolist())

    def read() -> Iterator[Record]:
        return (record for number, record in enumerate(source.records()) if number in kept)

    splits = tuple(sorted({split for number in kept if (split := pairs[number][1])}))
    return dataclasses.replace(source, read=read, count=len(kept)), splits


def _mean_features(
    network: Classifier, images: ImageList, layers: Mapping[str, str], device: DeviceConfig, title: str,
    reporter: Reporter,
) -> tuple[list[Row], dict[str, NDArray[np.float32]]]:  # fmt: skip
    """The rows that can be read, without pixels, and name → features ``(rows, channels or units)``."""
    extractor = LayerExtractor(network, layers, "mean", device)
    rows: list[Row] = []
    blocks: dict[str, list[NDArray[np.float32]]] = {name: [] for name in layers}
    done = 0
    with stage(reporter, title, images.count):
        for some, outputs in computed_chunks(extractor, images, network):
            good = [place for place, row in enumerate(some) if row.pixels is not None]
            rows += [dataclasses.replace(some[place], pixels=None) for place in good]
            for name, output in outputs.items():
                blocks[name].append(output[good])
            done += len(some)
            reporter.advance(done)
    return rows, {name: np.concatenate(parts) for name, parts in blocks.items()}


def accelerate(
    model: Classifier,
    device: str | torch.device | None = None,
    precision: str = "auto",
    *,
    training: bool = False,
) -> Classifier:
    """The model with fast kernels on a device; ``model`` itself keeps its reference layers.

    ``training=False``: a copy for inference, in evaluation mode and without gradients. ``training=True``: a network
    that shares the parameters of ``model`` under the same names, so that an optimizer of either updates both; ``model``
    must be on the device already. Images ``(N, C, S, S)`` → logits ``(N, classes)``, float32 for float32 images. In
    bf16 the forward pass runs under autocast.

    ``device``: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None takes the GPU if there is one. ``precision``: ``"auto"`` is
    bf16 on devices that support it natively, otherwise fp32; ``"int8"`` weights are for inference on a CPU. Raises
    ``UserError`` for a device or a precision that cannot be used.
    """
    if training and precision == "int8":
        raise UserError('precision "int8" is for inference: give "auto", "fp32" or "bf16" for training')
    config = resolve_device(None if device is None else str(device), precision)
    fast = kernels.accelerate(model, config, training=training)
    if config.bf16:
        for name in ("forward", "forward_features", "forward_head"):
            setattr(fast, name, functools.partial(_under_autocast, fast, config, name))
    return fast


def _under_autocast(network: Classifier, config: DeviceConfig, name: str, *given: Any, **named: Any) -> Tensor:
    """Call a method of the network's class under autocast; the logits of ``forward`` are float32."""
    with config.autocast():
        output: Tensor = getattr(type(network), name)(network, *given, **named)
    return output.float() if name == "forward" else output


def create_transform(
    model_or_recipe: Model | Recipe,
    training: bool = False,
    generator: torch.Generator | None = None,
    *,
    data: Path | str | None = None,
    data_root: Path | str | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
) -> ImageTransform:
    """The preprocessing of a model or a recipe: a PIL image → the network's input ``(C, S, S)``, float32.

    It gives the same numbers as ``Predictor`` and ``evaluate``. ``training=True`` needs a recipe and gives a randomly
    augmented view in each call, drawn from ``generator``, or from torch's global generator if None. With worker
    processes leave ``generator`` out: PyTorch seeds the global one in each worker.

    ``model_or_recipe``: a loaded model, a run or model folder, a weights file, the name of trained weights, a recipe,
    its name, or its JSON file. If a name is both a model folder and a recipe, the model is used. ``weights_root``: as
    in :func:`evaluate`. Pixel statistics of a recipe come from its image set, or ``data``,
    which is prepared if needed (``data_root`` and ``progress`` as in :func:`train`). Raises ``UserError``.
    """
    if not isinstance(model_or_recipe, Recipe):
        if isinstance(model_or_recipe, Classifier) or _is_model_not_recipe(model_or_recipe):
            if training:
                raise UserError("create_transform(training=True) needs a recipe: a model has no augmentation settings")
            model = _loaded(model_or_recipe, weights_root, make_reporter(progress))
            return ImageTransform(model.preprocessing, model.mean_image)
        if not is_recipe(str(model_or_recipe)) and is_meant_as_path(model_or_recipe):
            check_exists(model_or_recipe)
        model_or_recipe = get_recipe(str(model_or_recipe))
    reporter, root = make_reporter(progress), Path(data_root) if data_root else None
    source, recipe = resolve(model_or_recipe, data, (), root, reporter.log)
    dataset, _ = prepared_datasets.prepare(
        source, recipe.data.resize_size, recipe.data.channels, reporter, view=recipe.data.view
    )
    check_augmentation(recipe, dataset)
    variant, size = recipe.model.variant, recipe.data.image_size
    architecture = get_architecture(variant, **recipe.model.overrides())
    network = build(variant, architecture, len(dataset.classes), dataset.channels, size, device="meta")
    subtracts_image = recipe.data.pixel_normalization.startswith("mean-image")
    return ImageTransform(
        preprocessing=build_preprocessing(recipe, dataset, network.image_size),
        mean_image=torch.from_numpy(dataset.mean_image) if subtracts_image else None,
        augmentation=recipe.augment.at(0) if training else None,
        colours=dataset.colours if recipe.augment.color_noise != "none" else None,
        generator=generator,
    )


def _is_model_not_recipe(target: Path | str) -> bool:
    """Whether a target is a MODEL. A JSON file is a recipe's, unless it is the one in a model folder."""
    path = Path(target)
    return is_model(target) and not (path.suffix == ".json" and is_foreign_file(path))


def convert(
    file: Path | str,
    out: Path | str | None = None,
    *,
    variant: str | None = None,
    mean: Path | str | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
) -> tuple[Path, ConversionReport]:
    """A weights file of another framework as a model folder: (the folder, what was done).

    ``file``: its path, the name of published weights, or ``hub:OWNER/NAME``. ``out``: the folder; if None, the file's
    name without its suffix; for a name, that name with ``-`` for ``/``, in the working directory, such as
    ``torchvision-imagenet``. A folder with the same weights is written again. ``variant``: the name of the network,
    where the weights alone do not decide it. ``mean``: a file with the mean image that the network subtracts
    (``.binaryproto`` or ``.npy``). ``weights_root``, ``progress``: as in :func:`evaluate`. Raises ``UserError`` for a
    file that is no AlexNet, and if the folder cannot be written or holds another model or other files.
    """
    path = local_path(file, weights_root, make_reporter(progress))
    if path.is_dir():
        raise UserError(f"{file or path} is a folder: give a weights file; a model folder can be used as it is")
    folder = Path(out) if out is not None else Path(file_stem(file)) if path != Path(file) else path.with_suffix("")
    variant = variant or published_variant(file)
    network, report = convert_file(path, variant=variant, mean=None if mean is None else Path(mean))
    if (folder / "model.json").exists() and not _holds(folder, network):
        raise UserError(f"{folder} holds another model: give another folder with --out, or remove it")
    try:
        save_model(network, folder)
    except OSError as error:
        raise cannot_write(folder, error, "give another folder with --out") from error
    return folder, report


def _holds(folder: Path, network: Classifier) -> bool:
    """Whether a model folder holds the weights of this network; not if it is damaged.

    Raises ``UserError`` if it cannot be read: then it may hold them.
    """
    try:
        return _same_weights(load_model(folder), network)
    except UnreadableError:
        raise
    except UserError:
        return False


def _same_weights(one: Classifier, other: Classifier) -> bool:
    here, there = one.state_dict(), other.state_dict()
    return here.keys() == there.keys() and all(torch.equal(here[key], there[key]) for key in here)


def export(
    model: Model,
    path: Path | str | None = None,
    format: str = "onnx",  # noqa: A002 – the word that --to means
    *,
    int8: bool = False,
    pixels: bool = False,
    golden: ImageLike | None = None,
    data: Path | str | None = None,
    data_root: Path | str | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
) -> Exported:
    """Write a trained model in the format of another runtime and check it there, on real images.

    ``path``: the file; if None, the name of the model, with the suffix of the format, in the working directory. A file
    of an earlier export is replaced, no other. ``format``: a name in :data:`alexnet.weights.export.EXPORTERS`; or
    ``hub:OWNER/NAME``, which uploads the model folder with a model card and reads it back. ``int8``: int8 weights and
    activations, with ranges from real images. ``pixels``: the file contains the crop and the normalization, and takes
    uint8 images ``(N, H, W, C)`` of the prepared size. ``golden``: an image; the tensor after every layer of the fp32
    network is written too, to ``FILE.golden.npz``. ``data``: images for the check: a source, an image file or a folder
    of images; if None, the prepared images of the run if they are still there, else scikit-learn's two photographs.
    ``weights_root``: as in :func:`evaluate`.

    The figures are returned in ``.check`` and written beside the file, as ``FILE.check.json``. Raises ``UserError`` if
    the format cannot hold the network, if the file cannot be written, and if the check fails: the file is kept then.
    """
    reporter = make_reporter(progress)
    if is_hub_name(format):
        if path is not None or int8 or pixels or golden is not None or data is not None:
            raise UserError(
                f"--to {format} uploads the model as it is: leave out --out, --int8, --pixels, --golden, --data"
            )
        return _export_to_hub(model, format, weights_root, reporter)
    get_exporter(format)  # a wrong name is refused before anything is downloaded
    if path is not None:
        _check_export_path(Path(path), model, format)
    network = _loaded(model, weights_root, reporter)
    options = ExportOptions(int8=int8, pixels=pixels)
    exporter = check_exportable(network, format, options)
    name = (network.variant or "model") if isinstance(model, Classifier) else file_stem(model)
    file = Path(f"{name}{'-int8' if int8 else ''}{exporter.SUFFIX}") if path is None else Path(path)
    _check_export_path(file, model, format)
    if golden is not None:
        options = dataclasses.replace(options, golden=create_transform(network)(golden)[None])
        golden_sha256 = _sha256_of(golden)
    run = None if isinstance(model, Classifier) or kind_without_run(model) else Path(model)
    counts = (INT8_CHECKED, INT8_CALIBRATION) if int8 else (EXPORT_CHECKED, 0)
    root = Path(data_root) if data_root else None
    images = sample_images(network, run, None if data is None else str(data), *counts, root, reporter)
    exported = export_and_report(network, format, file, options, images)
    if options.golden is not None:
        written = _write_golden(network, options.golden, golden_sha256, file)
        exported = dataclasses.replace(exported, files=(*exported.files, written))
    if failure := exported.check.failure:
        raise UserError(
            f"{file} does not agree with the model: {failure}; the file is kept, but do not use it",
            exported.check.lines(),
        )
    return exported


def _export_to_hub(model: Model, name: str, weights_root: Path | str | None, reporter: Reporter) -> Exported:
    """Upload the model folder with a model card, and read it back."""
    parse_hub_name(name)
    network = _loaded(model, weights_root, reporter)
    with tempfile.TemporaryDirectory() as scratch:
        if isinstance(model, Classifier) or kind_without_run(model):
            folder = Path(scratch) / "model"
            try:
                save_model(network, folder)
            except OSError as error:
                raise cannot_write(folder, error, "free space, or set TMPDIR to another folder") from error
        else:
            folder = Path(model)
        address = push_to_hub(folder, name, model_card(folder, name=name))
    reporter.log(f"reading {name} back")
    if not _same_weights(load_model(name, reporter=reporter), network):
        raise UserError(f"{name} does not hold the weights that were uploaded: somebody else may have changed it")
    return Exported("hub", (), ExportCheck(tables="read back from the hub: every weight is equal"), address=address)


def _sha256_of(image: ImageLike) -> str:
    """The sha256 of an image file; "" for an image that is no file."""
    try:
        return sha256_file(Path(image)) if isinstance(image, Path | str) else ""
    except OSError as error:
        raise cannot_read(str(image), error) from error


def _write_golden(network: Classifier, image: Tensor, sha256: str, file: Path) -> Path:
    path = golden_path(file)
    try:
        write_golden(network, image, path, sha256)
    except OSError as error:
        raise cannot_write(path, error, "give another file with --out") from error
    return path


def _check_export_path(file: Path, model: Model, file_format: str) -> None:
    """Raise ``UserError`` for a file that an export must not replace: only those of an earlier export may be."""
    if file.is_dir():
        raise UserError(f"{file} is a folder: give a file with --out")
    if not isinstance(model, Classifier) and file.resolve() == Path(model).resolve():
        raise UserError(f"{file} is the model itself: give another file with --out")
    beside = (file.with_suffix(suffix) for suffix in getattr(get_exporter(file_format), "BESIDE", ()))
    if not report_path(file).is_file() and (there := next((each for each in (file, *beside) if each.exists()), None)):
        raise UserError(f"{there} exists and is not of an earlier export: give another file with --out")


def verify(
    model: Path | str,
    *,
    against: Path | str | None = None,
    data: Path | str | None = None,
    labels: Labels = (),
    variant: str | None = None,
    mean: Path | str | None = None,
    images: int = 400,
    data_root: Path | str | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
) -> VerifyReport:
    """What the weights of a MODEL are, and whether they are right: ``verify("runs/a").faults`` is empty if they are.

    It also reads weights that ``load_model`` refuses. ``against``: another MODEL whose layers these are compared with.
    ``data``: labelled images (a source, or a folder of photographs whose names begin with a WordNet id, such as
    ``n01440764_10026.JPEG``); with them, accuracy is measured under each plausible preprocessing, on at most ``images``
    images. ``labels``: as in :func:`train`. ``variant``, ``mean``: as in :func:`convert`. ``weights_root``,
    ``progress``: as in :func:`evaluate`. Raises ``UserError`` for a file that cannot be read as weights, and for images
    that cannot be used.
    """
    reporter = make_reporter(progress)
    path = local_path(model, weights_root, reporter)
    variant = variant or published_variant(model)
    mean_file = None if mean is None else Path(mean)
    other = None if against is None else local_path(against, weights_root, reporter)
    root = None if weights_root is None else Path(weights_root)
    if (task := task_of(path)) != "classification":
        raise UserError(f"{model} is a model for {task}: verify knows networks that give an image a class")
    report = verify_weights(path, against=other, variant=variant, mean=mean_file, weights_root=root)
    if data is None and not labels:
        return report
    if "not-finite" in report.faults or "shapes" in report.faults:
        return report  # the network cannot compute anything
    network = (
        convert_file(path, variant=variant, mean=mean_file)[0]
        if is_foreign_file(path)
        else load_model(path, reporter=reporter)
    )
    return with_trials(report, _trials(network, data, _label_files(labels), images, data_root, reporter))


def _trials(
    network: Classifier, data: Path | str | None, labels: Sequence[Path], most: int, data_root: Path | str | None,
    reporter: Reporter,
) -> Trials:  # fmt: skip
    """The accuracies of a network under each plausible preprocessing, on images of a source or a folder."""
    data = labels[0].parent if labels and data is None else data
    files, names = photographs_by_id(Path(str(data)))
    payloads: list[Payload] = list(files)
    if not names:
        source = open_source(str(data), Path(data_root) if data_root else None, reporter.log, labels)
        records = list(source.records())
        splits = {record.split for record in records}
        split = next((name for name in ("test", "val", None, "train") if name in splits), None)
        chosen = [record for record in records if record.split == split and not record.fault]
        payloads = [record.payload for record in chosen]
        names = [source.classes[record.label] for record in chosen]
    if not names:
        raise UserError(f"{data} has no images")
    classes = sorted(set(names))
    numbers = dict(zip(classes, match_classes(network, classes, str(data))[0], strict=True))
    some = evenly_spaced(np.arange(len(names)), most).tolist()
    reporter.log(f"classifying {len(some)} images of {data} under several preprocessings")
    found = run_trials(network, [payloads[place] for place in some], [numbers[names[place]] for place in some])
    if found is None:
        raise UserError(f"no image of {data} can be read")
    return found


def prepare(
    source: str,
    size: int | None = None,
    channels: Literal[1, 3] | None = None,
    *,
    labels: Labels = (),
    strict: bool = False,
    verify: bool = False,
    shards: str | None = None,
    records: Records = "uint8",
    data_root: Path | str | None = None,
    names: Path | str | None = None,
    progress: bool | None = None,
) -> tuple[PreparedDataset, float | None, list[str]]:
    """Decode a source once and cache it: (the prepared dataset, seconds or None if it was there, damage).

    ``size``: side of the prepared images in pixels; None keeps images that all have one size up to 128, and resizes
    photographs to 256. ``channels``: None for the source's own. ``labels``: as in :func:`train`. ``strict``: raise at
    the first file that is refused. ``verify``: hash every file again and return a line for each that is damaged.
    ``shards``: the address of a folder, such as ``s3://bucket/prefix``, to which the images are also written as shards,
    a source for other computers; the files are hashed first. ``records``: what the shards hold, ``"uint8"`` pixels or
    the ``"encoded"`` image files.
    ``names``: a CSV file that receives the file of each number in the names of medical images. Raises ``UserError``.
    """
    reporter = make_reporter(progress)
    opened = open_source(source, Path(data_root) if data_root else None, reporter.log, _label_files(labels))
    if names is not None:
        write_names(Path(names), ((record.name, record.file) for record in opened.records() if record.file))
    dataset, seconds = prepared_datasets.prepare(opened, size, channels, reporter, strict=strict)
    damage = verify_prepared(dataset.path) if verify or shards else []
    if shards and not damage:
        with stage(reporter, "writing shards", len(dataset.targets)):
            encoded = opened if records == "encoded" else None
            write_shards(dataset, shards, encoded=encoded, progress=lambda done, total: reporter.advance(done))
    return dataset, seconds, damage


def cache() -> list[CacheEntry]:
    """What is kept in the cache folder (``$ALEXNET_HOME``, see ``alexnet.data.home``): an entry for each folder.

    An entry is a prepared dataset, a download, or what a killed process left. Raises ``OSError`` if it cannot be read.
    """
    return list_cache()


def clear_cache(names: Sequence[str]) -> list[CacheEntry]:
    """Remove entries of :func:`cache` by their names, and return them.

    Nothing is removed if a running process or an unfinished training needs one of them: then, and for an unknown name,
    ``UserError`` is raised.
    """
    return remove_cached(names)


def summary(
    target: str,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    image_size: int | None = None,
    weights_root: Path | str | None = None,
    progress: bool | None = None,
) -> tuple[Classifier, Summary]:
    """A network, and its layer table; of a variant without memory for its weights.

    ``target``: a variant's name, or a trained model, which wins over a name. ``weights_root``, ``progress``: as in
    :func:`evaluate`. ``num_classes``, ``in_channels``,
    ``image_size``: None for what the variant's authors used; a trained model has its own. Raises ``UserError``.
    """
    if is_local_model(target) if target in list_models() else is_meant_as_path(target):
        check_exists(target)
        if (num_classes, in_channels, image_size) != (None, None, None):
            raise UserError(f"{target} is a trained model: leave out the numbers of classes, channels and pixels")
        model = load_model(target, weights_root=weights_root, progress=progress)
        return model, summarize(model)
    row = get_variant(target)
    classes = row.num_classes if num_classes is None else num_classes
    channels = row.in_channels if in_channels is None else in_channels
    network = build(target, row.architecture, classes, channels, image_size, device="meta")
    return network, summarize(network)
