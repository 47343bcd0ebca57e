"""The training loop: train a recipe's network on a prepared dataset.

A step depends only on the weights, the optimizer state, the step number and the validation errors so far. A checkpoint
holds these (``state.py``). So an interrupted and resumed training gives the same result as an uninterrupted one.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.config import AugmentSpec, Recipe
from alexnet.core.errors import DivergedError, StoppedError, UserError
from alexnet.data.augment import augment_packed, draw, pack, packed_rows
from alexnet.data.loader import DEPTH, Batch, Loader, pixels_of, to_device
from alexnet.data.prepared import PreparedDataset
from alexnet.data.sampler import Sampler
from alexnet.kernels.accelerate import accelerate, shared_copy
from alexnet.kernels.batch import part_of_batch
from alexnet.metrics.measures import MEASURES, Measure
from alexnet.models.classifier import Classifier
from alexnet.models.layers import dropout_keys, masks_of_keys
from alexnet.runtime.checkpoint import DamagedError, load_newest, set_aside
from alexnet.runtime.device import DeviceConfig, describe_hardware
from alexnet.runtime.group import ONE, Group
from alexnet.runtime.log import Clock, NullLog, Reporter, RunLog, describe_waiting, stage
from alexnet.runtime.run import Run, source_commit
from alexnet.runtime.signals import StopSignals
from alexnet.training.build import build_model, check_size, fits_probe_only, split_indices
from alexnet.training.criterion import ClassificationLoss
from alexnet.training.graph import GraphStep, StepInputs, graphs_pay
from alexnet.training.linear_probe import CrossValidation, LinearProbes
from alexnet.training.optimizer import build_optimizer, set_lrs
from alexnet.training.schedule import bias_learning_rate, learning_rate
from alexnet.training.state import AverageMeter, Identity, State
from alexnet.training.step import Outcome, compute_gradients, running_averages, update, use_averages
from alexnet.training.tasks import TRAINING_TASKS
from alexnet.training.transfer import (
    freeze,
    frozen_layers,
    started_from,
    transferred_layers,
    use_frozen_averages,
    weights_digest,
)

CHECKPOINT_SECONDS = 300.0
LINES_PER_EPOCH = 10
LOOK_STEPS = 20  # after at most this many steps, a loss or gradient that is not finite is detected
NAMED_IMAGES = 8
REPEATED_SIGNALS = 2.0  # seconds: in a group, the launcher passes on signals that a terminal has sent to all
EVALUATIONS = 100  # of a training whose epochs have few steps
STALL_STEPS = 100  # a warning is given if the loss stays at ln(classes) for this many steps
STALL_MARGIN = 0.02


class Training:
    """One training: a recipe, a prepared dataset, a run folder and a device; :meth:`fit` starts or resumes it.

    ``init``: the network whose weights it starts from, None for new weights. ``group``: the processes that train it
    together; only the first of them writes files and shows progress.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: PreparedDataset,
        run: Run,
        seed: int,
        device_config: DeviceConfig,
        reporter: Reporter,
        init: Classifier | None = None,
        group: Group = ONE,
    ) -> None:
        self.group = group
        self.recipe, self.dataset, self.run, self.seed = recipe, dataset, run, seed
        self.device_config, self.reporter = device_config, reporter
        self.train_index, self.val_index = split_indices(recipe, dataset)
        block = recipe.data.shuffle_block
        self.order = Sampler(self.train_index, recipe.train.batch_size, seed, block, dataset.splits)
        self.network = device_config.to_device(build_model(recipe, dataset, seed, init))
        if device_config.device.type == "cuda":
            check_size(self.network, math.ceil(recipe.train.batch_size / group.size / recipe.train.accumulate_steps))
        self.frozen = frozen_layers(self.network, recipe.train.freeze)
        freeze(self.network, self.frozen)
        self.transferred = None if init is None else transferred_layers(self.network, init)
        seen = () if init is None else init.trained_on.numpy().view(np.uint64)
        self.seen_before = int(np.isin(dataset.hashes[self.train_index], seen).sum())
        self.only_fits_probe = fits_probe_only(recipe, dataset)
        self.cross_validation: CrossValidation | None = None
        self.fast_network = accelerate(self.network, device_config, training=True)  # the same parameters
        if group.size > 1:
            # In a group, both networks do the part of this process. `small_network` has no fast kernels; it is used
            # when the process has no image.
            fast = shared_copy(self.network) if self.fast_network is self.network else self.fast_network
            self.fast_network, self.small_network = fast, shared_copy(self.network)
            group.prepare(self.network, [self.fast_network, self.small_network])
        mean_image = self.network.mean_image
        self.mean_image = None if mean_image is None else mean_image.to(device_config.device)
        self.task = TRAINING_TASKS[recipe.model.task]
        self.criterion = self.task.criterion(recipe, dataset, self.train_index, self.network, seed)
        self._weights = self._image_weights()
        self.optimizer = build_optimizer(self.network, recipe.optim, fused=not device_config.reference)
        self.interval, self.epoch = AverageMeter(device_config.device), AverageMeter(device_config.device)
        identity = Identity(recipe, seed, dataset.digest, "" if init is None else weights_digest(init))
        self.state = State(identity, self.network, self.optimizer, self.interval, self.epoch)
        self.graph: GraphStep | None = None
        if self.task.fixed_shapes and graphs_pay(device_config, group, recipe.train.accumulate_steps):
            self.graph = GraphStep(self.fast_network, running_averages(self.fast_network), reporter.log)
        self._safe_step = 0  # step of the newest checkpoint
        self._moving_step = 0  # last step at which the loss was not that of guessing
        self._warned_of_stall = False

    def _image_weights(self) -> NDArray[np.float64] | None:
        """The weight of each class ``(classes,)`` by which the loss weights images, None if it does not."""
        if not isinstance(self.criterion, ClassificationLoss) or self.criterion.class_weights is None:
            return None
        return self.criterion.class_weights.double().cpu().numpy()

    @property
    def main_measure(self) -> Measure:
        """The main measure: the weights with the highest one on the validation images can be kept."""
        return MEASURES[self.recipe.model.task]

    @property
    def epochs(self) -> int:
        """The planned number of epochs: the recipe's, or as many as its ``min_steps`` need."""
        return max(self.recipe.train.epochs, math.ceil(self.recipe.train.min_steps / self.order.steps_per_epoch))

    @property
    def total_steps(self) -> int:
        """Steps of all epochs; learning rate schedules are planned for these."""
        return self.order.steps_per_epoch * self.epochs

    @property
    def planned_steps(self) -> int:
        """The number of steps after which the training ends if it does not stop early; 0 if the probe is the model."""
        return 0 if self.only_fits_probe else min(self.total_steps, self.recipe.train.steps or self.total_steps)

    @property
    def last_step(self) -> int:
        """The number of steps after which the training ends, as far as is known now."""
        return self.state.step if self.stops_early else self.planned_steps

    @property
    def stops_early(self) -> bool:
        """Whether the validation error has had no new minimum for the recipe's share of the planned steps."""
        share, errors = self.recipe.train.early_stopping, self.state.errors
        return bool(share and errors) and self.epochs_without_improvement >= share * self.epochs

    @property
    def epochs_without_improvement(self) -> int:
        """The number of epochs since the evaluation with the lowest validation error."""
        errors = self.state.errors
        return (len(errors) - best_evaluation(errors)) * self.evaluation_epochs

    @property
    def images_trained_on(self) -> int:
        """Number of images in all steps so far; an image counts once for each time that it was used."""
        epochs, steps = divmod(self.state.step, self.order.steps_per_epoch)
        return epochs * len(self.train_index) + steps * self.recipe.train.batch_size

    def fit(self, on_evaluation: Callable[[Run], None]) -> Classifier:
        """Train to the end and return the model that the recipe keeps.

        ``on_evaluation`` is called after each evaluation. Raises ``StoppedError`` if a signal stopped the training,
        after writing a checkpoint, and ``DivergedError`` if the loss, a gradient or a weight is not finite.
        """
        repeated = REPEATED_SIGNALS if self.group.size > 1 else 0.0
        with self.log() as log, StopSignals(repeated) as interrupts, self.device_config.deterministic():
            self.begin(log)
            clock, waited = Clock(self.state.seconds), 0.0
            title = f"training {self.recipe.name}"
            with stage(self.reporter, title, self.last_step, self.state.step), self.loader() as batches:
                for batch in batches:
                    self.step(batch)
                    clock.count(len(batch.all_index))
                    # Read once: a later signal is handled after the next step. The clock of the first process decides.
                    due = self.group.is_first and clock.total - self.state.seconds > CHECKPOINT_SECONDS
                    stopping, late = map(int, self.group.largest(interrupts.status or 0, due))
                    if self.line_is_due or late or stopping or self.state.step % LOOK_STEPS == 0:
                        self.check_finite_steps()
                    if self.line_is_due:
                        self.write_line(log, clock)
                    if self.evaluation_is_due or late or stopping:
                        self.group.gather(self.optimizer)
                    if self.evaluation_is_due:
                        waited = self.log_waiting(log, clock, batches, waited)
                        self.end_epoch(log, on_evaluation)
                        clock.restart()
                    if self.evaluation_is_due or late or stopping:
                        self.checkpoint(log, clock)
                    if self.stops_early and self.state.step < self.planned_steps:
                        log.event("stopped-early", step=self.state.step)
                        waited = self.epochs_without_improvement
                        self.reporter.log(f"stopped early: the validation accuracy did not improve for {waited} epochs")
                    if stopping or self.stops_early:
                        break
            (status,) = self.group.largest(interrupts.status or 0)  # it may have come during the last evaluation
            if status:
                raise StoppedError(self.stop_message, int(status))
        if self.recipe.train.keep == "best-on-val" and not self.only_fits_probe:
            self.network.load_state_dict(self.state.best)
        return self.network

    @contextlib.contextmanager
    def log(self) -> Iterator[RunLog]:
        """The logs of the run. If the training diverges, the last event is ``diverged``, see ``Run.divergence``.

        Only the first process of a group has logs.
        """
        with RunLog(self.run.folder) if self.group.is_first else NullLog() as log:
            try:
                yield log
            except DivergedError as error:
                found = {"step": error.step, "finding": error.finding, "source": self.dataset.name}
                log.event("diverged", **found, hardware=describe_hardware(self.device_config))
                raise

    @property
    def kept_epoch(self) -> int:
        """The epoch, from 1, whose weights the model has: the last one, or the one of lowest validation error.

        If several epochs have the lowest error, it is the last of them. It is 0 if no epoch was as good as the start.
        """
        errors = self.state.errors
        if self.state.best and errors and self.state.best_error < min(errors):
            return 0
        if not (self.recipe.train.keep == "best-on-val" and errors):
            return self.epochs_begun
        return min(best_evaluation(errors) * self.evaluation_epochs, self.epochs_begun)

    def loader(self, depth: int = DEPTH) -> Loader:
        """The remaining batches; ``depth``: how many are read ahead."""
        dataset, device = self.dataset, self.device_config.device
        count = (self.last_step - self.state.step) * self.recipe.train.batch_size
        return Loader(
            pixels_of(dataset.pixels, device, count), dataset.targets, self.order, device, self.state.step,
            self.last_step, depth, self.group.part, dataset.prefetch,
        )  # fmt: skip

    def step(self, batch: Batch) -> None:
        """Do one training step: augment the batch, draw dropout masks, update the weights, count the loss."""
        recipe, dataset = self.recipe, self.dataset
        spec = recipe.augment.at(batch.epoch)
        colours = dataset.colours if spec.color_noise != "none" else None
        draws = draw(spec, dataset.side, self.seed, batch.epoch, batch.index, batch.position, colours)
        keys = dropout_keys(self.network.dropout_sites, self.seed, batch.step)
        numbers = np.concatenate([np.array(keys, np.int64), pack(draws).ravel()])
        device = self.device_config.device
        targets = batch.targets
        if self.task.read_targets is not None:
            targets = to_device(self.task.read_targets(dataset, batch.index), device)
        inputs = StepInputs(batch.pixels, targets, to_device(numbers, device))
        count = len(batch.all_index)
        network = self.fast_network if len(batch.index) else self.small_network
        self.group.start_step(count)
        network.train()
        use_frozen_averages(network, self.frozen)
        if count == 1 < recipe.train.batch_size:
            use_averages(network)
        lr, epoch = self.lr(batch.step), batch.step / self.order.steps_per_epoch
        set_lrs(self.optimizer, recipe.optim, lr, bias_learning_rate(recipe.optim, lr, epoch), epoch)
        compute = functools.partial(self.compute, network, spec, batch)
        if self.graph is not None and len(batch.index) == recipe.train.batch_size:
            outcome = self.graph(spec, compute, inputs)
        else:
            outcome = compute(inputs)
        update(self.optimizer, outcome.finite)
        for meter in (self.interval, self.epoch):
            meter.add(outcome.loss, outcome.right, count, outcome.finite)
        self.state.step += 1
        self.state.note(outcome.finite)

    def compute(self, network: Classifier, spec: AugmentSpec, batch: Batch, inputs: StepInputs) -> Outcome:
        """Augment the images of a batch, draw dropout masks, and compute the gradients.

        Of ``batch``, only the number of images, their classes and the step are used, and the step only by losses that
        draw random numbers. So the others can be captured in a CUDA graph.
        """
        sites, count = self.network.dropout_sites, len(batch.all_index)
        draws = inputs.numbers[len(sites) :].view(packed_rows(spec), len(batch.index))
        images = augment_packed(inputs.pixels, draws, spec, self.network.preprocessing, self.mean_image)
        masks = masks_of_keys(sites, count, inputs.numbers[: len(sites)])
        with contextlib.nullcontext() if self.group.size == 1 else part_of_batch(count):
            return compute_gradients(
                network,
                images,
                self.task.augment_targets(inputs.targets, draws, spec, self.network.preprocessing),
                self.group.masks(masks, batch.part),
                self.criterion,
                self.device_config,
                self.share(batch),
                self.group,
                self.recipe.train.accumulate_steps,
                batch.step,
            )

    def share(self, batch: Batch) -> float:
        """The factor of the loss of this process, 0 … 1.

        It is the share of its images among those of the whole batch, by their class weights if there are any, times
        ``group.weight``.
        """
        if self._weights is None:
            return self.group.weight * len(batch.index) / len(batch.all_index)
        weights = self._weights[self.dataset.targets[batch.all_index]]
        return self.group.weight * float(weights[batch.part].sum() / weights.sum())

    def lr(self, step: int) -> float:
        """The learning rate of a step of this epoch."""
        return learning_rate(
            self.recipe.optim, step, self.total_steps, self.order.steps_per_epoch, self.state.errors
        )  # fmt: skip

    @property
    def line_is_due(self) -> bool:
        """Whether a line of metrics is due: about ten times an epoch, also at its end."""
        steps = self.order.steps_per_epoch * self.evaluation_epochs
        return self.evaluation_is_due or self.state.step % max(1, steps // LINES_PER_EPOCH) == 0

    @property
    def evaluation_is_due(self) -> bool:
        """Whether the last step was the last one of an epoch (of ``evaluation_epochs`` epochs) or of the training."""
        step = self.state.step
        return step > 0 and (
            step % (self.order.steps_per_epoch * self.evaluation_epochs) == 0 or step == self.last_step
        )

    @property
    def evaluation_epochs(self) -> int:
        """The number of epochs from one evaluation and checkpoint to the next.

        It is 1, but where ``min_steps`` makes many short epochs, they are evaluated about ``EVALUATIONS`` times in all.
        """
        return max(1, self.epochs // EVALUATIONS) if self.epochs > self.recipe.train.epochs else 1

    @property
    def epochs_begun(self) -> int:
        """The number of epochs that have begun, including the current one."""
        return math.ceil(self.state.step / self.order.steps_per_epoch)

    def write_line(self, log: RunLog, clock: Clock) -> None:
        """Write a line of metrics and a speed event, and update the progress display."""
        step = self.state.step
        loss, accuracy = self.interval.take()
        self.check_finite(math.isfinite(loss), f"the loss is {loss}")
        epoch = round(step / self.order.steps_per_epoch, 4)
        log.metrics(step=step, epoch=epoch, loss=loss, accuracy=accuracy, lr=self.lr(step - 1))
        log.event("speed", step=step, images_per_second=round(clock.lap(), 1))
        self.reporter.advance(step, loss=loss, accuracy=accuracy, images_per_second=clock.rate)
        self.warn_if_stalled(log, loss)

    def check_finite_steps(self) -> None:
        """Raise ``DivergedError`` if the loss or a gradient of a step was not finite."""
        step = int(self.state.first_bad)
        if step:
            _, index, _ = self.order.at(step - 1)
            several = ", …" if len(index) > NAMED_IMAGES else ""
            finding = "the loss or a gradient is not a finite number"
            raise self.divergence(
                f"{finding} (images {', '.join(self.dataset.names(index[:NAMED_IMAGES]))}{several})", step
            )

    def check_finite(self, finite: bool, finding: str) -> None:
        """Raise ``DivergedError`` with ``finding`` unless ``finite``."""
        if not finite:
            raise self.divergence(finding, self.state.step)

    def divergence(self, finding: str, step: int) -> DivergedError:
        """The error of a training that diverged at a step; its message states what to do."""
        return DivergedError(
            finding,
            step,
            f"{finding} at step {step} of {self.recipe.name}: lower the learning rate, e.g. "
            f"--set optim.lr={self.recipe.optim.lr / 10:g}, and start again in another folder with --out",
        )

    def warn_if_stalled(self, log: RunLog, loss: float) -> None:
        """Warn once, with likely causes, if the loss stays at ln(classes), the loss of guessing."""
        classes, step = self.network.num_classes, self.state.step
        if self.recipe.model.task != "classification":
            return  # the loss of guessing depends on the shares and weights of the classes
        if abs(loss - math.log(classes)) > STALL_MARGIN:
            self._moving_step = step
        if self._warned_of_stall or step - self._moving_step < STALL_STEPS:
            return
        self._warned_of_stall = True
        log.event("stalled", step=step, loss=loss)
        self.reporter.log(
            f"warning: the loss has been at ln({classes}) = {math.log(classes):.3f}, the loss of random guessing, for "
            f"{step - self._moving_step} steps. Likely causes: a slow start, a learning rate that is too low or too "
            "high (optim.lr), initial weights that are too small, a wrong pixel normalization "
            "(data.pixel_normalization), labels that do not match the images"
        )

    def end_epoch(self, log: RunLog, on_evaluation: Callable[[Run], None]) -> None:
        """Evaluate val (and test, if the recipe has ``test_curve``), write metrics and call ``on_evaluation``."""
        loss, accuracy = self.epoch.take()
        step, epoch = self.state.step, self.epochs_begun
        figures = {"train_loss": loss, f"train_{self.main_measure.training}": accuracy}
        if len(self.val_index):
            figures |= self.measure("val", self.val_index, self.group)
            self.state.update_best(
                1 - figures[f"val_{self.main_measure.name}"], self.recipe.train.keep == "best-on-val"
            )
        if self.recipe.train.test_curve:
            figures |= self.measure("test", self.dataset.subset("test"), self.group)
        log.metrics(step=step, epoch=epoch, **figures)
        text = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in figures.items())
        self.reporter.log(f"epoch {epoch}/{self.epochs}: {text}")
        try:
            on_evaluation(self.run)
        except OSError as error:  # e.g. a full disk: the training continues without the curves of this epoch
            self.warn(log, "curves-failed", f"cannot write the curves of epoch {epoch}: {error}; training continues")

    def log_waiting(self, log: RunLog, clock: Clock, batches: Loader, before: float) -> float:
        """Write the wait for images of the last epoch to ``events.jsonl``, and show it if it is long.

        ``before``: the wait before that epoch, in seconds. Returns the wait so far.
        """
        seconds, waited = clock.elapsed, batches.waited - before
        log.event("epoch", step=self.state.step, seconds=round(seconds, 3), waited=round(waited, 3))
        for line in describe_waiting(seconds, waited):
            self.reporter.log(line)
        return batches.waited

    def measure(self, name: str, index: NDArray[np.int64], group: Group) -> dict[str, float]:
        """Loss, main measure and others, with one view, on the images ``index`` of the prepared dataset.

        ``group``: the processes that call this method, and share the work.
        """
        metrics = self.task.metrics(self.network)
        for outputs in self.task.outputs(self.network, self.dataset, index, self.device_config, group):
            metrics.add(*outputs)
            self.reporter.advance(self.state.step, measured=metrics.images)
        self.check_finite(not metrics.not_finite, f"the {name} loss is nan")
        return {f"{name}_{figure}": value for figure, value in metrics.figures.items()}

    def warn(self, log: RunLog, kind: str, text: str) -> None:
        """Write a warning to ``events.jsonl`` and to the reporter."""
        log.event(kind, step=self.state.step, reason=text)
        self.reporter.log(f"warning: {text}")

    def checkpoint(self, log: RunLog, clock: Clock) -> None:
        """Write a checkpoint. If it cannot be written, a warning is given and the training continues."""
        state = self.state
        self.check_finite(state.is_finite(), "a weight is infinite or not a number")
        state.seconds = clock.total
        self.group.from_first(lambda: self._save(log))  # the others wait, also for a slow disk

    def _save(self, log: RunLog) -> bytes:
        state = self.state
        try:
            state.save(self.run.checkpoints, {"metrics_bytes": log.mark(), **self.arithmetic})
            self._safe_step = state.step
        except OSError as error:
            self.warn(log, "checkpoint-failed", f"no checkpoint at step {state.step}: {error}; training continues")
        return b""

    @property
    def safe(self) -> bool:
        """Whether a checkpoint holds the current state."""
        return self._safe_step == self.state.step

    @property
    def stop_message(self) -> str:
        """The message after a signal stopped the training."""
        step = self.state.step
        where = "there" if self.safe else f"after step {self._safe_step}, the last checkpoint"
        return f"stopped after step {step}; the same command continues {where}"

    @property
    def arithmetic(self) -> dict[str, Any]:
        """The versions, hardware and settings that the last bits of the results depend on."""
        about = describe_hardware(self.device_config)
        names = ("torch", "hardware", "instructions", "threads", "device", "precision", "cudnn")
        versions = {"commit": source_commit(), "numpy": np.__version__, "plain": self.device_config.reference}
        several = {"processes": self.group.size} if self.group.size > 1 else {}
        return {**versions, **{name: about[name] for name in names if name in about}, **several}

    def pass_over(self, log: RunLog, damaged: DamagedError, step: int) -> None:
        """Rename a damaged checkpoint and warn; the older checkpoint of ``step`` is used instead."""
        try:
            renamed = f"it was renamed to {set_aside(damaged.path).name}"
        except OSError as error:
            renamed = f"it cannot be renamed ({error.strerror or error})"
        self.warn(log, "damaged-checkpoint", f"{damaged}; {renamed}; the checkpoint of step {step} is used")

    def start_from_probe(self, log: RunLog) -> None:
        """Cross-validate linear probes on the layers from trained weights, log them, and begin with the best one.

        Only with ``train.head`` = "probe". Of few images, the best probe is the model. Raises ``UserError`` then if a
        class has one image.
        """
        if self.recipe.train.head != "probe" or self.transferred is None:
            return
        clock = Clock(self.state.seconds)
        if self.seen_before:
            self.warn(
                log, "seen-before", f"{self.recipe.train.init} was trained on {self.seen_before:,} of these images, so "
                "the cross-validated accuracies are too high",
            )  # fmt: skip
        probes = LinearProbes(self.network, self.dataset, self.train_index, self.val_index, self.device_config)
        for score in probes.cross_validate(self.transferred.copied, self.seed, self.reporter):
            log.event("probe", step=0, **score.to_json())
            self.reporter.log(str(score))
        if self.only_fits_probe:
            self.cross_validation = probes.fit_all(self.seed, self.reporter, self.frozen)
        elif self.network.last_layer in self.transferred.new:
            probes.start_from_best(self.reporter, self.frozen)
            self.measure_start()
        self.state.seconds = clock.total

    def measure_start(self) -> None:
        """Keep the weights before the first step too, if the recipe keeps those that are best on val."""
        if self.recipe.train.keep == "best-on-val" and len(self.val_index):
            with stage(self.reporter, "evaluating the probe", len(self.val_index)):
                figures = self.measure("val", self.val_index, ONE)
                self.state.keep_best(1 - figures[f"val_{self.main_measure.name}"])

    def begin(self, log: RunLog) -> None:
        """Start anew, or from the newest checkpoint. The first process reads it, and the others take its state."""
        if self.group.is_first:
            self.group.from_first(lambda: self._begin_first(log))
        else:
            self.state.from_bytes(self.group.from_first(bytes))

    def _begin_first(self, log: RunLog) -> bytes:
        self.restore(log)
        return self.state.to_bytes() if self.group.size > 1 else b""

    def restore(self, log: RunLog) -> None:
        """Load the newest undamaged checkpoint, if there is one, and remove the metrics of later steps."""
        found, damaged = load_newest(self.run.checkpoints)
        if found is None and damaged:
            raise UserError(
                f"all checkpoints in {self.run.checkpoints} are damaged: restore one from a backup, or train again in "
                "another folder with --out",
                [str(error) for error in damaged],
            )
        if found is None:
            if self.run.metrics():
                lost = f"there are no checkpoints in {self.run.checkpoints}: starting at step 0 again"
                self.warn(log, "checkpoints-lost", lost)
            log.cut(0)
            log.event("start", step=0, seed=self.seed)
            if self.transferred:
                copied, new = self.transferred.copied, self.transferred.new
                self.reporter.log(started_from(self.recipe.train.init, copied, new, self.frozen))
                self.start_from_probe(log)
            return
        self.state.restore(found)
        for error in damaged:
            self.pass_over(log, error, found.step)
        self._safe_step = self._moving_step = found.step
        if not log.cut(found.state["metrics_bytes"]):
            self.warn(log, "metrics-lost", "metrics.jsonl is shorter than it was; its earlier lines are lost")
        for name, value in {"processes": 1, **self.arithmetic}.items():
            if (before := found.state.get(name, 1 if name == "processes" else None)) != value:
                self.warn(log, "other-arithmetic", f"{name} was {before}, now {value}: the last bits may differ")
        log.event("resume", step=found.step, seed=self.seed)
        if found.step < self.last_step:
            self.reporter.log(f"continuing after step {found.step}")


def best_evaluation(errors: Sequence[float]) -> int:
    """The number, from 1, of the evaluation with the lowest error; if several have it, the last of them."""
    return len(errors) - errors[::-1].index(min(errors))
