"""The settings of one training run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from taskloom.errors import ConfigError, did_you_mean
from taskloom.training.augment_config import AugmentConfig

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1)]
AtLeastOne = Annotated[int, Field(ge=1)]


class Settings(BaseModel):
    """Base of all settings here: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AdamConfig(Settings):
    """Adam (Kingma and Ba 2015)."""

    lr: Positive = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0


class AdamWConfig(AdamConfig):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    weight_decay: NotNegative = 0.01


class SgdConfig(Settings):
    """Stochastic gradient descent."""

    lr: Positive = 1e-2
    momentum: Share = 0.0
    nesterov: bool = False
    weight_decay: NotNegative = 0.0

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0")
        return self


class RmspropConfig(Settings):
    """RMSprop (Tieleman and Hinton 2012)."""

    lr: Positive = 1e-3
    alpha: Share = 0.99
    momentum: Share = 0.0
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.0


class _OneOf(Settings):
    """A name with its settings, `{adam: {lr: 1.0e-3}}`, or the bare name for its defaults."""

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, given: Any) -> Any:
        if isinstance(given, str):
            return {given: {}}
        if isinstance(given, Mapping):
            return {name: {} if settings is None else settings for name, settings in given.items()}
        return given

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            known = ", ".join(type(self).model_fields)
            raise ValueError(
                f"exactly one of {known} expected, found {', '.join(sorted(self.model_fields_set)) or 'none'}"
            )
        return self

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return [(self.name, self.settings)]

    @model_serializer
    def _only_the_chosen(self) -> dict[str, Any]:
        return {self.name: self.settings.model_dump()}

    @property
    def name(self) -> str:
        return next(iter(self.model_fields_set))

    @property
    def settings(self) -> Settings:
        settings = getattr(self, self.name)
        assert isinstance(settings, Settings)
        return settings


class OptimizerConfig(_OneOf):
    """One of adam, adamw, sgd, rmsprop."""

    adam: AdamConfig = AdamConfig()
    adamw: AdamWConfig = AdamWConfig()
    sgd: SgdConfig = SgdConfig()
    rmsprop: RmspropConfig = RmspropConfig()


class PlateauConfig(Settings):
    """The learning rate is multiplied by `factor` when the monitor has not improved for `patience` epochs."""

    factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    patience: Annotated[int, Field(ge=0)] = 10
    min_delta: NotNegative = 0.0
    min_lr: NotNegative = 0.0


class CosineConfig(Settings):
    """The learning rate falls in a half cosine to `final` times its start, after `warmup` rising epochs."""

    final: Annotated[float, Field(ge=0, le=1)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0


class ScheduleConfig(_OneOf):
    """One of plateau, cosine."""

    plateau: PlateauConfig = PlateauConfig()
    cosine: CosineConfig = CosineConfig()


class StopConfig(Settings):
    """Training ends when the monitor has not improved by more than `min_delta` for `patience` epochs."""

    patience: AtLeastOne = 10
    min_delta: NotNegative = 0.0


class TrainingConfig(Settings):
    """The settings of one training run.

    Args:
        epochs: Passes over the training rows, at most.
        batch: Rows per step, over all processes.
        accumulate: Parts that a batch is divided into, forward and backward one after the other: memory for
            the activations of one part, gradients of the whole batch. Batch norm sees the parts.
        drop_last: Whether an incomplete last batch of an epoch is left out. One of a single row always is
            where the network has batch normalisation, which cannot run on it; the record says so.
        optimizer: `{adam | adamw | sgd | rmsprop: {lr: ..., ...}}`.
        schedule: None, `{plateau: {factor, patience}}` or `{cosine: {final, warmup}}`; one step per epoch.
        lr_multipliers: Factors on the learning rate, by name: a task (what belongs to it alone), or "shared",
            "mixing", "tie", "balancer" or another parameter group of the network; groups that a network does
            not have are noted, unknown names refused.
        decay_mixing: Whether weight decay acts on mixing matrices, stage weights, policies and parameters of
            ties too; they have no reason to be near 0.
        augment: What is done to training batches; see `AugmentConfig`.
        clip: Largest norm of the gradient over all parameters; None leaves it alone.
        stop: `{patience, min_delta}` of early stopping; None trains all epochs.
        monitor: What decides the best epoch, on validation only: "loss", the weighted sum of the mean losses
            of the main tasks (smaller is better), or "metric", the mean over main tasks of the primary
            metric, negated where smaller is better (larger is better).
        precision: "32", "bf16-mixed" or "16-mixed".
        device: "cpu", "cuda", or "auto": CUDA where there is one, said in `History.notes`.
        devices: Number of processes, each with its device.
        num_workers: Loader processes per process; 0 reads in the training process, which is quickest for rows
            of a prepared store: handing a batch from process to process costs more than gathering it
            (`benchmarks/windows.py`, `epoch_1_workers_vs_0`). They pay for data sets that compute their rows.
        resident: Whether the samples of windows lie in the GPU's memory, where batches are then gathered:
            "auto" where a third of what is free has room for them, "never" to read the store.
        evaluation_batch: Rows per step of an evaluation.
        threads: CPU threads of PyTorch per process; None leaves them as they are.
        balanced_sampling: A binary or multiclass task whose classes training rows are drawn by, equally often
            each, with replacement; cells without the task take every row once.
        test_curves: Whether the test rows that `fit` is given are looked at after every epoch, for curves
            only: they decide nothing. Costs an evaluation an epoch.

    Example:
        >>> TrainingConfig(epochs=3, optimizer={"adam": {"lr": 0.01}}).optimizer.name
        'adam'
    """

    epochs: AtLeastOne = 20
    batch: AtLeastOne = 64
    accumulate: AtLeastOne = 1
    drop_last: bool = False
    optimizer: OptimizerConfig = OptimizerConfig(adam=AdamConfig())
    schedule: ScheduleConfig | None = None
    lr_multipliers: dict[str, Positive] = Field(default_factory=dict)
    decay_mixing: bool = False
    augment: AugmentConfig | None = None
    clip: Positive | None = None
    stop: StopConfig | None = None
    monitor: Literal["loss", "metric"] = "loss"
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: AtLeastOne = 1
    num_workers: Annotated[int, Field(ge=0)] = 0
    resident: Literal["auto", "never"] = "auto"
    evaluation_batch: AtLeastOne = 1024
    threads: AtLeastOne | None = None
    balanced_sampling: str | None = None
    test_curves: bool = False

    @model_validator(mode="before")
    @classmethod
    def _none_is_no_schedule(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and given.get("schedule") == "none":
            return {**given, "schedule": None}
        return given

    @model_validator(mode="after")
    def _enough_rows_for_all_processes(self) -> Self:
        if self.batch < self.devices:
            raise ValueError(f"batch {self.batch} is below the number of processes, devices {self.devices}")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A younger setting that is not used is left out: the identity of runs stays what it was."""
        plain: dict[str, Any] = dump(self)
        for name in ("lr_multipliers", "decay_mixing", "balanced_sampling", "test_curves", "augment"):
            if not getattr(self, name):
                del plain[name]
        if self.accumulate == 1:
            plain.pop("accumulate", None)
        if self.resident == "auto":
            plain.pop("resident", None)  # a checkpoint leaves it out by itself
        return plain

    def with_settings(self, **overrides: Any) -> TrainingConfig:
        """Returns a copy with these settings in place.

        Raises:
            ConfigError: An unknown setting, or a value out of range; names the setting.

        Example:
            >>> TrainingConfig().with_settings(epochs=5).epochs
            5
        """
        try:
            return TrainingConfig.model_validate({**self.model_dump(), **overrides})
        except ValidationError as error:
            raise ConfigError(_explain(error, "training")) from error


def _explain(error: ValidationError, prefix: str) -> str:
    """One sentence on the first thing that is wrong."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    where = ".".join([prefix, *path])
    if first["type"] == "extra_forbidden":
        known = _known_settings(path[:-1])
        return f"{where} is not a setting.{did_you_mean(path[-1], known)} Settings: {', '.join(known)}."
    message = first["msg"].removeprefix("Value error, ")
    found = "" if isinstance(first["input"], Mapping | BaseModel) else f", found {first['input']!r}"
    return f"{where}: {message[0].lower()}{message[1:]}{found}."


def _known_settings(path: list[str]) -> list[str]:
    """Names of the settings at `path` below `TrainingConfig`."""
    model: type[BaseModel] = TrainingConfig
    for name in path:
        annotation = model.model_fields[name].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next(
            option for option in options if isinstance(option, type) and issubclass(option, BaseModel)
        )
    return list(model.model_fields)
