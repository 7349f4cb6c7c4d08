"""Augmentation against naive loops over images, rows and pixels; the same draws after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import taskloom as tl
from taskloom.data.batch import Batch
from taskloom.data.feature_rows import FeatureRows
from taskloom.data.image_store import ImageStandardization
from taskloom.data.tables import TableDataset
from taskloom.errors import ConfigError
from taskloom.losses import per_task
from taskloom.tasks import Binary, Labels, Landmarks, Multiclass, Multilabel, Regression, TaskSet
from taskloom.training import Callback, TrainingConfig, fit
from taskloom.training.augment_config import AugmentConfig
from taskloom.training.augmentation import Augmentation, Augmented
from taskloom.training.image_ops import affine_maps, coloured, moved, moved_points

POINTS = ("left_eye", "right_eye", "nose")
TASKS = TaskSet(
    Landmarks("face", POINTS),
    Multiclass("pose", ("left", "front", "right")),
    Binary("smile"),
    Regression("age"),
    Multilabel("worn", ("hat", "scarf")),
)


class Images:
    """Twelve random images of 9 x 7 pixels with labels of every kind."""

    def __init__(self, tasks: TaskSet = TASKS, num_rows: int = 12) -> None:
        random = torch.Generator().manual_seed(0)
        self.tasks = tasks
        self.inputs = torch.rand(num_rows, 3, 9, 7, generator=random) * 2 - 1
        self.input_shape = (3, 9, 7)
        self.standardization = ImageStandardization((0.5, 0.4, 0.3), (0.25, 0.3, 0.35))
        rows = (num_rows,)
        values = {
            "face": torch.rand(*rows, 3, 2, generator=random) * 6,
            "pose": torch.randint(0, 3, rows, generator=random),
            "smile": torch.randint(0, 2, rows, generator=random),
            "age": torch.randn(rows, generator=random),
            "worn": torch.randint(0, 2, (*rows, 2), generator=random),
        }
        present = {
            name: torch.rand(*rows, *tasks_shape, generator=random) < 0.8
            for name, tasks_shape in (
                ("face", (3,)),
                ("pose", ()),
                ("smile", ()),
                ("age", ()),
                ("worn", (2,)),
            )
        }
        self.labels = Labels(values, present)
        self.groups = np.arange(num_rows)

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitems__(self, indices: Any) -> Batch:
        index = torch.tensor(list(indices))
        return Batch(self.inputs[index], self.labels[index], index)

    def batch(self) -> Batch:
        return self.__getitems__(range(len(self)))


def augmented(config: dict[str, Any], *, step: int = 1, seed: int = 0, epoch: int = 1) -> Augmented:
    data = Images()
    augmentation = Augmentation(AugmentConfig.model_validate(config), data, seed=seed)
    return augmentation(data.batch(), epoch=epoch, step=step)


def test_a_flip_mirrors_pixels_points_and_what_is_left_and_right() -> None:
    config = {"flip": {"probability": 0.5, "swap": {"pose": [["left", "right"]]}}}
    batch, found = Images().batch(), augmented(config)
    mirrored = 0
    for row in range(12):
        image, expected = found.inputs[row], batch.inputs[row]
        if torch.equal(image, expected):
            for name in TASKS:
                assert torch.equal(found.labels.values[name][row], batch.labels.values[name][row])
                assert torch.equal(found.labels.present[name][row], batch.labels.present[name][row])
            continue
        mirrored += 1
        for y in range(9):
            for x in range(7):
                assert torch.equal(image[:, y, x], expected[:, y, 6 - x])
        for point, source in enumerate((1, 0, 2)):
            x, y = batch.labels.values["face"][row, source].tolist()
            assert found.labels.values["face"][row, point].tolist() == pytest.approx([6 - x, y])
            assert found.labels.present["face"][row, point] == batch.labels.present["face"][row, source]
        if batch.labels.present["pose"][row]:
            assert int(found.labels.values["pose"][row]) == 2 - int(batch.labels.values["pose"][row])
        assert found.labels.values["smile"][row] == batch.labels.values["smile"][row]
    assert 2 <= mirrored <= 10


@pytest.mark.parametrize("garbage", [-100, -1, 7])
def test_what_stands_where_no_class_is_may_be_anything_in_a_flip(garbage: int) -> None:
    data = Images()
    before, present = data.labels.values["pose"].clone(), data.labels.present["pose"]
    assert present.any()
    assert not present.all()
    data.labels.values["pose"] = torch.where(present, before, garbage)
    config = {"flip": {"probability": 1.0, "swap": {"pose": [["left", "right"]], "face": []}}}
    found = Augmentation(AugmentConfig.model_validate(config), data, seed=0)(data.batch(), epoch=1, step=1)
    assert torch.equal(found.labels.values["pose"][present], 2 - before[present])


def bilinear(image: NDArray[np.float64], x: float, y: float) -> NDArray[np.float64]:
    """A naive sample of an image [C, H, W], edges repeated."""
    height, width = image.shape[1:]
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = int(np.floor(x)), int(np.floor(y))
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = x - left, y - top
    upper = (1 - a) * image[:, top, left] + a * image[:, top, right]
    lower = (1 - a) * image[:, bottom, left] + a * image[:, bottom, right]
    return np.asarray((1 - b) * upper + b * lower)


def test_an_affine_map_moves_pixels_and_points_alike() -> None:
    images = Images().inputs[:3].double()
    degrees, scale = torch.tensor([30.0, -10.0, 0.0]).double(), torch.tensor([1.2, 0.8, 1.0]).double()
    shift = torch.tensor([[1.0, -0.5], [0.0, 2.0], [2.0, 0.0]]).double()
    maps = affine_maps(degrees, scale, shift, 9, 7)
    found = moved(images, maps)
    for row in range(3):
        angle, s = np.deg2rad(float(degrees[row])), float(scale[row])
        turn = s * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.array([3.0, 4.0])
        point = np.array([1.0, 2.0])
        expected = turn @ (point - centre) + centre + shift[row].numpy()
        np.testing.assert_allclose(
            moved_points(torch.tensor([[[1.0, 2.0]]]).double(), maps[row : row + 1])[0, 0], expected
        )
        for y in range(9):
            for x in range(7):
                source = np.linalg.solve(turn, np.array([x, y]) - centre - shift[row].numpy()) + centre
                sample = bilinear(images[row].numpy(), source[0], source[1])
                np.testing.assert_allclose(found[row, :, y, x].numpy(), sample, atol=1e-9)
    np.testing.assert_allclose(found[2, :, :, 3:].numpy(), images[2, :, :, 1:5].numpy(), atol=1e-12)


def test_a_drawn_affine_map_stays_in_its_bounds_and_takes_points_along() -> None:
    config = {"affine": {"rotation": 20, "scale": [0.8, 1.25], "translation": 0.1}}
    before, after = Images().labels.values["face"].double(), augmented(config).labels.values["face"].double()
    turned = []
    for row in range(12):
        old, new = before[row, 1] - before[row, 0], after[row, 1] - after[row, 0]
        factor = float(new.norm() / old.norm())
        assert 0.8 - 1e-4 <= factor <= 1.25 + 1e-4
        angle = np.rad2deg(float(torch.atan2(new[1], new[0]) - torch.atan2(old[1], old[0])))
        turned.append((angle + 180) % 360 - 180)
    assert np.abs(turned).max() <= 20.001
    assert np.std(turned) > 3


def test_colours_change_as_a_naive_loop_says() -> None:
    images = (Images().inputs[:2] + 1) / 2
    brightness, contrast, saturation = (
        torch.tensor([1.3, 0.7]),
        torch.tensor([0.5, 1.5]),
        torch.tensor([0.0, 1.4]),
    )
    found = coloured(images, brightness, contrast, saturation)
    for row in range(2):
        picture = np.clip(images[row].double().numpy() * float(brightness[row]), 0, 1)
        weights = np.array([0.299, 0.587, 0.114])
        mean = np.tensordot(weights, picture, axes=1).mean()
        picture = np.clip(mean + (picture - mean) * float(contrast[row]), 0, 1)
        for y in range(9):
            for x in range(7):
                grey = weights @ picture[:, y, x]
                pixel = np.clip(grey + (picture[:, y, x] - grey) * float(saturation[row]), 0, 1)
                np.testing.assert_allclose(found[row, :, y, x].numpy(), pixel, atol=1e-5)


def test_colours_are_changed_on_the_scale_of_pixels() -> None:
    data = Images()
    data.inputs = torch.zeros_like(data.inputs)  # the mean colour: brightness scales it
    config = AugmentConfig.model_validate({"colour": {"brightness": 0.5, "contrast": 0, "saturation": 0}})
    found = Augmentation(config, data, seed=0)(data.batch(), epoch=1, step=1).inputs
    mean, deviation = torch.tensor(data.standardization.mean), torch.tensor(data.standardization.deviation)
    factors = (found[:, :, 0, 0] * deviation + mean) / mean
    assert torch.allclose(factors, factors[:, :1].expand(-1, 3), atol=1e-5)
    assert 0.5 <= float(factors.min()) < 0.8 < 1.2 < float(factors.max()) <= 1.5


def outputs(rows: int) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, task.width, generator=random) for name, task in TASKS.items()}


def test_blended_rows_take_the_losses_of_both_labels() -> None:
    data = Images()
    batch = data.batch()
    augmentation = Augmentation(AugmentConfig.model_validate({"mixup": {"alpha": 0.8}}), data, seed=0)
    found = augmentation(batch, epoch=1, step=1)
    assert found.mixture is not None
    share, partner = found.mixture.share, found.mixture.partner
    predictions = outputs(12)
    losses = augmentation.losses(predictions, found, found.labels, TASKS)
    for row in range(12):
        expected = share * batch.inputs[row] + (1 - share) * batch.inputs[partner[row]]
        assert torch.allclose(found.inputs[row], expected, atol=1e-6)
    for name in TASKS:
        total = 0.0
        for row in range(12):
            one = {name: predictions[name][row : row + 1]}
            own = per_task(one, batch.labels[[row]], TASKS)[name].sum
            other = per_task(one, batch.labels[[int(partner[row])]], TASKS)[name].sum
            total += share * float(own) + (1 - share) * float(other)
        assert float(losses[name].sum) == pytest.approx(total, rel=1e-5)
        assert int(losses[name].count) == int(batch.labels.present[name].sum())


def test_mixaugment_adds_the_rows_as_they_are() -> None:
    data = Images()
    augmentation = Augmentation(AugmentConfig.model_validate({"mixaugment": {"alpha": 0.8}}), data, seed=0)
    found = augmentation(data.batch(), epoch=1, step=1)
    mixup = augmented({"mixup": {"alpha": 0.8}})
    assert torch.equal(found.inputs, torch.cat([mixup.inputs, data.inputs]))
    predictions = outputs(24)
    losses = augmentation.losses(predictions, found, found.labels, TASKS)
    blend = augmentation.losses({n: p[:12] for n, p in predictions.items()}, mixup, mixup.labels, TASKS)
    real = per_task({n: p[12:] for n, p in predictions.items()}, data.labels, TASKS)
    for name in TASKS:
        mean = (float(blend[name].mean) + 2 * float(real[name].mean)) / 3
        assert float(losses[name].mean) == pytest.approx(mean, rel=1e-5)


def test_smoothed_labels_are_those_of_pytorch_and_leave_numbers_alone() -> None:
    data = Images()
    augmentation = Augmentation(AugmentConfig(label_smoothing=0.3), data, seed=0)
    found = augmentation(data.batch(), epoch=1, step=1)
    predictions = outputs(12)
    losses = augmentation.losses(predictions, found, data.labels, TASKS)
    values, present = data.labels.values, data.labels.present
    rows = present["pose"]
    pose = F.cross_entropy(predictions["pose"][rows], values["pose"][rows], label_smoothing=0.3)
    assert float(losses["pose"].mean) == pytest.approx(float(pose), rel=1e-5)
    for name, output in (("smile", predictions["smile"][:, 0]), ("worn", predictions["worn"])):
        target = values[name].float() * 0.7 + 0.15
        loss = F.binary_cross_entropy_with_logits(output, target, reduction="none")[present[name]].mean()
        assert float(losses[name].mean) == pytest.approx(float(loss), rel=1e-5)
    plain = per_task(predictions, data.labels, TASKS)
    for name in ("face", "age"):
        assert torch.equal(losses[name].sum, plain[name].sum)


def test_draws_follow_from_seed_epoch_and_step() -> None:
    config = {"flip": {}, "affine": {}, "colour": {}, "mixup": {}}
    first = augmented(config).inputs
    assert torch.equal(augmented(config).inputs, first)
    for change in ({"seed": 1}, {"epoch": 2}, {"step": 2}):
        assert not torch.equal(augmented(config, **change).inputs, first)
    before = torch.random.get_rng_state()
    augmented(config)
    assert torch.equal(torch.random.get_rng_state(), before)  # dropout draws what it drew without


def network(tasks: TaskSet) -> tl.sharing.MultiTaskNetwork:
    encoder = tl.encoders.build("vgg5", (3, 9, 7), filters=(4, 4))
    return tl.sharing.build("hard_sharing", encoder, tasks, stages=2)


def small(config: dict[str, Any], epochs: int, folder: Path | None = None, **settings: Any) -> Any:
    tasks = TaskSet(Binary("smile"), Regression("age"))
    data = Images(tasks, 24)
    data.labels = data.labels.subset(tasks.names)
    torch.manual_seed(0)
    model = tl.sharing.build(
        "hard_sharing", tl.encoders.build("vgg5", (3, 9, 7), filters=(4, 4)), tasks, stages=2
    )
    training = TrainingConfig(epochs=epochs, batch=8, device="cpu", augment=config, **settings)
    history = fit(model, data, data, training, seed=3, folder=folder, progress=False)
    return model, history


class Stop(Exception):
    pass


def test_a_resumed_run_sees_the_same_augmented_batches(tmp_path: Path) -> None:
    config = {"flip": {}, "affine": {}, "mixaugment": {}, "label_smoothing": 0.1}
    whole, history = small(config, 3)

    class Breaks(Callback):
        def epoch_end(self, state: Any) -> None:
            if state.epoch == 3:
                raise Stop

    tasks = TaskSet(Binary("smile"), Regression("age"))
    data = Images(tasks, 24)
    data.labels = data.labels.subset(tasks.names)
    training = TrainingConfig(epochs=3, batch=8, device="cpu", augment=config)
    for attempt in range(2):
        torch.manual_seed(0)
        model = tl.sharing.build(
            "hard_sharing", tl.encoders.build("vgg5", (3, 9, 7), filters=(4, 4)), tasks, stages=2
        )
        breaks = Breaks()
        if attempt:
            breaks.epoch_end = lambda state: None  # type: ignore[method-assign]
        try:
            resumed = fit(
                model, data, data, training, seed=3, folder=tmp_path, callbacks=[breaks], progress=False
            )
        except Stop:
            assert attempt == 0
    assert resumed.resumed_after == [2]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert [epoch.train_loss for epoch in resumed.epochs] == [epoch.train_loss for epoch in history.epochs]


def test_evaluation_sees_the_data_as_they_are() -> None:
    tasks = TaskSet(Binary("smile"), Regression("age"))
    data = Images(tasks, 24)
    data.labels = data.labels.subset(tasks.names)
    model, history = small({"affine": {"rotation": 180}, "mixup": {}}, 1)
    model.eval()
    with torch.no_grad():
        losses = per_task(model(data.inputs), data.labels, tasks)
    for name in tasks:
        assert history.epochs[0].validation_loss[name] == pytest.approx(float(losses[name].mean), rel=1e-4)


def test_without_augmentation_nothing_changes() -> None:
    data = Images()
    batch = data.batch()
    found = Augmentation(None, data, seed=0)(batch, epoch=1, step=1)
    assert found.inputs is batch.inputs
    assert found.labels is batch.labels
    assert "augment" not in TrainingConfig().model_dump()
    config = TrainingConfig(augment={"mixup": {}})
    assert TrainingConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"flip": {"swap": {"posse": []}}}, r"`posse` is not a task\. Did you mean `pose`"),
        ({"flip": {"swap": {"face": [["left_eye", "right_eie"]]}}}, "`right_eie` is none of its points"),
        ({"flip": {"swap": {"age": []}}}, "points or classes change places, not a regression"),
    ],
)
def test_settings_that_do_not_fit_the_tasks_are_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        augmented(config)


def test_points_without_left_and_right_need_to_be_told() -> None:
    tasks = TaskSet(Landmarks("face", 3))
    with pytest.raises(ConfigError, match=r"swap\.face: the pairs of points that change places"):
        Augmentation(AugmentConfig.model_validate({"flip": {}}), Images(tasks), seed=0)
    config = AugmentConfig.model_validate({"flip": {"swap": {"face": []}}})
    assert Augmentation(config, Images(tasks), seed=0).swaps["face"].tolist() == [0, 1, 2]


def test_what_is_for_images_is_refused_for_rows() -> None:
    labels = Labels({"age": torch.zeros(4)}, {"age": torch.ones(4, dtype=torch.bool)})
    rows = FeatureRows(np.eye(4, dtype=np.float32))
    data = TableDataset(rows, np.arange(4), TaskSet(Regression("age")), labels)
    for name in ("flip", "affine", "colour"):
        with pytest.raises(ConfigError, match=rf"augment\.{name}: inputs of shape \[3, height, width\]"):
            Augmentation(AugmentConfig.model_validate({name: {}}), data, seed=0)
    with pytest.raises(ConfigError, match="mixup and mixaugment exclude each other"):
        TrainingConfig().with_settings(augment={"mixup": {}, "mixaugment": {}})
    with pytest.raises(ConfigError, match=r"augment\.affine\.scale"):
        TrainingConfig().with_settings(augment={"affine": {"scale": [0, 1]}})
    blending = Augmentation(AugmentConfig.model_validate({"mixup": {}}), data, seed=0)
    blending.check_alone(coupled=False)
    with pytest.raises(ConfigError, match=r"use mixaugment, .* or leave mixup, or the coupling, out"):
        blending.check_alone(coupled=True)
    images = Images()
    del images.standardization
    with pytest.raises(ConfigError, match="images of a store expected"):
        Augmentation(AugmentConfig.model_validate({"colour": {}}), images, seed=0)
