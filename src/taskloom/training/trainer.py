"""The training loop: one step, one epoch, one run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from taskloom.data.balanced_rows import balanced_weights
from taskloom.data.batch import Batch, EpochBatchSampler, TaskDataset
from taskloom.data.resident import ResidentWindows, placed
from taskloom.losses import SumCount, weighted
from taskloom.tasks import Labels
from taskloom.training.augmentation import Augmentation, Augmented, SoftLosses
from taskloom.training.callbacks import Callback, ProgressBar, TrainingState
from taskloom.training.changes import let_change, more_changes
from taskloom.training.coupled import CoupledLosses, without_rows
from taskloom.training.devices import PeakMemory
from taskloom.training.history import EpochRecord, History, Values
from taskloom.training.judging import look_at_test, monitor, validate
from taskloom.training.kept_features import KeptRows, Remainder, keep_features
from taskloom.training.last_batch import last_batch_note, least_last_rows, single_rows_told
from taskloom.training.optimizers import (
    learning_rates,
    make_optimizer,
    make_schedule,
    unused_lr_multipliers,
)
from taskloom.training.parts import added, check_parts, parts_of, whole_counts
from taskloom.training.processes import has_rows, join_processes, joined_losses, make_shared_loader
from taskloom.training.reproducibility import seed_everything, set_random_states
from taskloom.training.resume import Checkpoints
from taskloom.training.run import Run
from taskloom.training.run_state import save_state, take_up
from taskloom.training.turns import Turns
from taskloom.training.watch import LossWatch

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train_run(fabric: Fabric, run: Run, bar: ProgressBar | None = None) -> History:
    """Trains in this process, which is the only one or one of several that `fabric` has joined."""
    return Trainer(fabric, run, bar).train()


class Trainer:
    """One run in one process: the loop itself."""

    def __init__(self, fabric: Fabric, run: Run, bar: ProgressBar | None) -> None:
        config = run.config
        # Rank 0 draws what a single process would draw.
        seed_everything(run.seed + 1_000_003 * fabric.global_rank)
        self.fabric, self.run, self.config = fabric, run, config
        self.model, self.tasks, self.balancer = run.model, run.model.tasks, run.balancer
        self.coupled = CoupledLosses(run.coupling, self.tasks)
        self.augmentation = Augmentation(config.augment, run.train, seed=run.seed, rank=fabric.global_rank)
        self.augmentation.check_alone(run.coupling is not None)
        beside = run.coupling is not None or run.soft_labels is not None
        check_parts(config, run.balancer, beside=beside)
        fabric.to_device(self.model)
        self.balancer.with_terms(self.coupled.balanced)
        self.balancer.start(self.model, seed=run.seed)
        optimizer = make_optimizer(self.model, config, self.balancer)
        self.network: nn.Module = self.model
        self.forward: Any = self.model
        self.optimizer: Any = optimizer
        self.wrap(self.model, optimizer)
        self.schedule = make_schedule(optimizer, config)
        task = config.balanced_sampling
        self.row_weights = None if task is None else balanced_weights(run.train.labels, run.train.tasks, task)
        self.train_loader = self.loader_of(run.train)
        self.validation_loader = self.loader_of(run.validation, training=False)
        self.test_loader = None if run.test is None else self.loader_of(run.test, training=False)
        self.turns = Turns(self.model, run.train, run.seed)
        self.part: Remainder | None = None
        history = History(
            monitor=config.monitor,
            seed=run.seed,
            device=str(fabric.device),
            precision=config.precision,
            num_processes=fabric.world_size,
            num_parameters=sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            notes=[
                *run.notes,
                *self.balancer.remarks(config.epochs),
                *last_batch_note(self.train_sampler.too_few),
                *(
                    f"training.lr_multipliers.{name}: this network has no such parameters"
                    for name in unused_lr_multipliers(self.model, config, self.balancer)
                ),
            ],
        )
        self.state = TrainingState(
            self.model, optimizer, self.balancer, config, history, steps_per_epoch=len(self.train_loader)
        )
        self.state.freezing.example = lambda: run.train.__getitems__([0]).inputs.to(fabric.device)
        self.stopped = 0
        self.callbacks = [*run.callbacks, *([bar] if bar else [])]
        self.after_batch = [c for c in self.callbacks if type(c).batch_end is not Callback.batch_end]
        self.best = self.state.best
        self.checkpoints = Checkpoints(run.folder, run.settings()) if run.folder else None

    def wrap(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Prepares a network and the optimiser for several processes and for mixed precision."""
        self.network, self.forward, self.optimizer = model, model, optimizer
        if self.fabric.world_size > 1 or self.config.precision != "32":
            # Fabric's wrappers cost a hook per task and step; one process in single precision needs none.
            self.forward, self.optimizer = self.fabric.setup(model, optimizer)
            join_processes(self.fabric, self.balancer)

    # -- the run

    def train(self) -> History:
        """Trains from the checkpoint, or from the start, to the end."""
        states = take_up(self)
        try:
            return self.train_on(states)
        finally:
            # However training ends: what it set for its steps is not to last.
            self.state.freezing.release()
            self.model.set_step(None)
            self.balancer.forget_parts()

    def train_on(self, states: Mapping[str, Any] | None) -> History:
        """The epochs that are left, and the weights of the best one."""
        history = self.state.history
        memory = PeakMemory(self.fabric.device)
        if not history.finished:
            for callback in self.callbacks:
                callback.fit_start(self.state)
            if states is not None:
                set_random_states(states)
            while not history.finished:
                self.train_epoch(len(history) + 1)
                history.peak_memory_bytes = max(history.peak_memory_bytes, memory.bytes())
                history.peak_memory_of = memory.of
                save_state(self)
        self.best.load_into(self.model)
        self.model.eval()
        if self.state.epoch:
            for callback in self.callbacks:
                callback.fit_end(self.state)
        return history

    def train_epoch(self, epoch: int) -> None:
        """Trains one epoch, validates, and lets schedule and callbacks draw their conclusions."""
        state = self.state
        state.epoch, state.step = epoch, 0
        rates = learning_rates(state.optimizer)
        self.model.train()
        if not state.freezing.shared:  # a curriculum that went on would change what is frozen
            self.model.set_epoch(epoch)
            let_change(self, epoch)
        state.freezing.set_modes()
        for callback in self.callbacks:
            callback.epoch_start(state)
        start = time.perf_counter()
        self.go_on_without_stopped()
        self.coupled.begin(epoch, state.freezing.active)
        means = self.train_batches(epoch)
        train_loss = {task: means[task] for task in self.tasks}
        middle = time.perf_counter()
        validation_loss, validation_metrics = validate(self)
        test_metrics = look_at_test(self)
        record = EpochRecord(
            epoch=epoch,
            train_loss=train_loss,
            penalty=float(self.model.penalty().detach()),
            validation_loss=validation_loss,
            validation_metrics=validation_metrics,
            monitor=monitor(self, validation_loss, validation_metrics),
            lr=rates,
            seconds_training=middle - start,
            seconds_evaluation=time.perf_counter() - middle,
            coupling={name: means[name] for name in self.coupled.names},
            test_metrics=test_metrics,
            mixing={stage: matrix.tolist() for stage, matrix in self.model.mixing_matrices().items()},
        )
        balanced = means if self.coupled.balanced else train_loss
        self.balancer.epoch_end(balanced, validation_metrics)
        factors = {f"reversal/{task}": found.factor for task, found in self.model.reversals.items()}
        record.balancing = self.balancer.report_state() | factors
        self.conclude(record)

    def conclude(self, record: EpochRecord) -> None:
        """What follows from an epoch: the best one so far, the next rates, whether to go on."""
        state, history = self.state, self.state.history
        history.epochs.append(record)
        best = history.best.monitor if history.best_epoch else None
        if not self.best.composed and history.is_better(record.monitor, best):
            history.best_epoch = record.epoch
            self.best.keep(self.model, record.epoch)
        if self.schedule is not None and record.monitor is not None:
            self.schedule.step(record.epoch, record.monitor)
        for callback in self.callbacks:
            callback.epoch_end(state)
        if more_changes(self, record.epoch):
            state.stop_reason = None  # what the network has still to become is not to be missed
        if state.stop_reason is not None and record.epoch < self.config.epochs:
            history.stopped_early = True
            history.notes.append(f"stopped after epoch {record.epoch}: {state.stop_reason}")
        history.finished = history.stopped_early or record.epoch == self.config.epochs

    def go_on_without_stopped(self) -> None:
        """Once more tasks have stopped: the network without them, and what its frozen front gives, kept."""
        freezing = self.state.freezing
        if len(freezing.stopped) == self.stopped:
            return
        self.stopped = len(freezing.stopped)
        if freezing.remainder is not None and self.part is None:
            self.part = freezing.remainder
            self.part.heard = self.coupled.heard(freezing.active)
            self.keep_features(self.part)
        if self.part is not None:
            self.part.heard = self.coupled.heard(freezing.active)
        # Several processes exchange the gradients of a fixed set of parameters: it has changed.
        self.wrap(self.part or self.model, self.state.optimizer)

    def keep_features(self, part: Remainder) -> None:
        """Loaders over kept outputs of the frozen front in place of inputs, as far as memory allows."""
        kept, notes = keep_features(
            part,
            self.run.train,
            self.run.validation,
            budget_bytes=self.state.freezing.features_bytes,
            batch=self.config.batch,
            device=self.fabric.device,
            precision=self.fabric.autocast,
            augmented=self.config.augment is not None and self.config.augment.changes_inputs,
        )
        if "training" in kept:
            self.train_loader = self.loader_of(kept["training"])
        if "validation" in kept:
            self.validation_loader = self.loader_of(kept["validation"], training=False)
        # A resumed run has the notes already.
        self.state.history.notes += [note for note in notes if note not in self.state.history.notes]

    def loader_of(self, dataset: TaskDataset, *, training: bool = True) -> DataLoader[Batch]:
        """This process's share of a loader over rows to train on, or to validate on."""
        config = self.config
        if config.resident == "auto":
            dataset = placed(dataset, self.fabric.device)
        kept = isinstance(dataset, KeptRows | ResidentWindows)
        return make_shared_loader(
            dataset,
            config.batch if training else config.evaluation_batch,
            self.fabric,
            num_workers=0 if kept else config.num_workers,  # what is in memory needs no reading ahead
            pin_memory=not isinstance(dataset, ResidentWindows),
            shuffle=training,
            seed=self.run.seed if training else 0,
            drop_last=config.drop_last and training,
            row_weights=self.row_weights if training else None,
            least_last=least_last_rows(self.model, self.fabric.world_size) if training else 1,
        )

    @property
    def train_sampler(self) -> EpochBatchSampler:
        """What draws the training batches."""
        sampler = self.train_loader.batch_sampler
        assert isinstance(sampler, EpochBatchSampler)
        return sampler

    # -- one epoch

    def train_batches(self, epoch: int) -> Values:
        """One pass over the training rows; the mean loss per task."""
        self.train_sampler.set_epoch(epoch)
        watch = LossWatch(
            self.fabric, self.tasks, self.run.name, epoch, self.train_loader, self.coupled.names
        )
        on_cpu = self.fabric.device.type == "cpu"
        for step, batch in enumerate(self.train_loader, start=1):
            moved = batch if on_cpu else batch.to(self.fabric.device, non_blocking=True)
            if self.model.reversals:
                done = epoch - 1 + (step - 1) / len(self.train_loader)
                self.model.set_progress(done / self.config.epochs)
            self.model.set_step((epoch - 1) * len(self.train_loader) + step - 1)
            for part, resting in self.turns.of(moved):
                self.state.losses = self.step(part, watch, step, resting)
            self.state.step = step
            for callback in self.after_batch:
                callback.batch_end(self.state)
        self.model.set_step(None)
        return watch.means()

    def step(
        self, batch: Batch, watch: LossWatch, step: int, resting: Sequence[nn.Parameter] = ()
    ) -> Mapping[str, SumCount]:
        """One batch: predictions, losses, gradients, update of all parameters but the resting ones."""
        self.optimizer.zero_grad()
        augmented = self.augmentation(batch, epoch=self.state.epoch, step=step)
        labels = augmented.labels.subset(self.state.freezing.active) if self.stopped else augmented.labels
        if self.config.accumulate > 1:
            losses = self.in_parts(augmented, labels)
        else:
            losses = self.at_once(augmented, labels, batch, step)
        watch.add(losses, self.balancer.total, batch, step)
        for parameter in resting:
            parameter.grad = None
        if self.config.clip is not None:
            self.fabric.clip_gradients(
                self.forward, self.optimizer, max_norm=self.config.clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        return losses

    def at_once(
        self, augmented: Augmented, labels: Labels, batch: Batch, step: int
    ) -> Mapping[str, SumCount]:
        """Losses of a batch, and the gradients that the balancer makes of them."""
        with self.balancer.watching(self.model):
            predictions = self.predict(augmented.inputs)
        soft = self.soft_losses(batch, step)
        losses = self.augmentation.losses(predictions, augmented, labels, self.tasks, soft)
        if self.coupled.names:
            terms = self.coupled.terms(augmented.unblended(predictions), augmented.labels)
            losses |= terms if has_rows(self.train_loader, self.fabric, step) else without_rows(terms)
        losses = joined_losses(self.fabric, losses)
        followed = weighted(losses, self.tasks)
        if self.coupled.names:
            self.balancer.backward(*self.coupled.parted(followed, self.model))
        else:
            self.balancer.backward(followed, self.model)
        return losses

    def soft_losses(self, batch: Batch, step: int) -> SoftLosses | None:
        """What adds the teachers' losses to those of a batch."""
        taught = self.run.soft_labels
        if taught is None:
            return None
        active, counted = self.state.freezing.active, has_rows(self.train_loader, self.fabric, step)

        def added(
            losses: dict[str, SumCount], predictions: Mapping[str, Tensor], rows: Tensor | None
        ) -> dict[str, SumCount]:
            index = batch.index if rows is None else batch.index[rows.cpu()]
            return taught.added(losses, predictions, index, self.tasks, active=active, counted=counted)

        return added

    def in_parts(self, augmented: Augmented, labels: Labels) -> Mapping[str, SumCount]:
        """The same, of one part of the batch after the other: memory for the activations of one part."""
        losses: dict[str, SumCount] = {}
        counts: dict[str, Tensor] = {}
        parts = list(parts_of(augmented.inputs, labels, self.config.accumulate))
        for number, (inputs, part_labels) in enumerate(parts, start=1):
            predictions = self.predict(inputs)
            counts = counts or whole_counts(predictions, labels, self.tasks)
            part = self.augmentation.losses(predictions, augmented, part_labels, self.tasks)
            part = {name: SumCount(loss.sum, counts[name]) for name, loss in part.items()}
            take = self.balancer.backward if number == len(parts) else self.balancer.accumulate
            take(weighted(part, self.tasks), self.model)
            losses = added(losses, part)
        return losses

    def predict(self, inputs: Tensor) -> dict[str, Tensor]:
        """The network's outputs in training."""
        predictions: dict[str, Tensor]
        with single_rows_told(self.run.name, self.config.batch, self.fabric.world_size):
            if self.balancer.takes_gradients and self.forward is not self.network:
                # Gradients per task pass no hook of DDP: the balancer averages them over processes itself.
                with self.fabric.autocast():
                    predictions = self.network(inputs)
            else:
                predictions = self.forward(inputs)
        return predictions
