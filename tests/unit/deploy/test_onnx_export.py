"""ONNX files against the routes that predict without them: bundles, faces, tables, recordings."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import taskloom as tl
import taskloom.deploy.onnx_export as module
from _bundles import SETTINGS
from _onnx import IMAGES, TASKS, bundle_of, run
from taskloom.cli import app
from taskloom.data.face_crop import CropSettings
from taskloom.data.normalize import Normalizer
from taskloom.deploy import Bundle, export_onnx, load_bundle, save_bundle
from taskloom.encoders import Encoder
from taskloom.errors import DataError, MissingExtraError
from taskloom.predict import predict_table
from taskloom.predict.faces import FaceNetwork


@pytest.mark.parametrize(
    ("encoder", "sharing"),
    [
        *[("conv1d", name) for name in SETTINGS if name != "multilinear_relationship"],
        ("mlp", "multilinear_relationship"),
        *[(name, "single_task") for name in ("lstm", "deep_conv_lstm", "resnet18", "densenet121")],
    ],
)
def test_every_architecture_predicts_the_same_in_batches_of_any_size(
    tmp_path: Path, encoder: str, sharing: str
) -> None:
    tasks = tl.TaskSet(*list(TASKS.values())[: 1 if sharing == "single_task" else 2])  # seconds, not minutes
    bundle = bundle_of(encoder, sharing, tasks=tasks)
    found = export_onnx(bundle, tmp_path / "net.onnx")
    assert found.input_shape == ("batch", *bundle.settings["input_shape"])
    for number in (1, 2, 9):
        rows = torch.randn(number, *bundle.settings["input_shape"])
        expected = bundle.predict(rows)
        outputs = run(tmp_path / "net.onnx", "inputs", rows.numpy())
        assert list(outputs) == list(tasks)
        for name, values in expected.items():
            np.testing.assert_allclose(outputs[name], values, rtol=1e-4, atol=1e-4, err_msg=name)
            # Ages at the end of their range, or chances of 1, would be equal whatever the file computes.
            assert number < 9 or len(np.unique(values)) > 4, name


def test_every_registered_architecture_is_exported_above() -> None:
    assert set(SETTINGS) == set(tl.sharing.ARCHITECTURES)


def test_images_go_in_as_pixels(tmp_path: Path) -> None:
    bundle = bundle_of("vgg5", preprocessing=IMAGES)
    found = export_onnx(bundle, tmp_path / "faces.onnx")
    assert (found.input_name, found.input_shape, found.input_type) == (
        "images",
        ("batch", 32, 32, 3),
        "uint8",
    )
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    seen = FaceNetwork(bundle, CropSettings(32), "cpu").outputs(list(pixels))
    outputs = run(tmp_path / "faces.onnx", "images", pixels)
    for name, task in TASKS.items():
        np.testing.assert_allclose(outputs[name], task.decode(seen[name]), rtol=1e-4, atol=1e-4)


def test_rows_go_in_as_they_stand_in_the_table(tmp_path: Path) -> None:
    fitted = {
        "center": [10.0, -2.0, 0.0, 5.0, 1.0],
        "scale": [3.0, 0.5, 1.0, 2.0, 4.0],
        "fill": [11.0, -2.0, 0.5, 4.0, 0.0],
    }
    known = {"reader": "table", "features": list("abcde"), "packed_bits": None, "standardization": fitted}
    tasks = tl.TaskSet(tl.Regression("age", center=40.0, scale=9.0), tl.Binary("features"))
    bundle = bundle_of(preprocessing=known, tasks=tasks)
    found = export_onnx(bundle, tmp_path / "rows.onnx")
    assert found.input_name == "features.input"  # a task has its name
    rows = np.random.default_rng(0).normal(5.0, 3.0, (7, 5)).astype(np.float32)
    rows[2, 1] = rows[5, 4] = np.nan
    pd.DataFrame(rows, columns=list("abcde")).to_csv(tmp_path / "new.csv", index=False)
    predict_table(bundle, tmp_path / "new.csv", tmp_path / "out.csv", device="cpu")
    expected = pd.read_csv(tmp_path / "out.csv")
    outputs = run(tmp_path / "rows.onnx", "features.input", rows)
    np.testing.assert_allclose(outputs["age"], expected.age, rtol=1e-4)
    sure = np.maximum(outputs["features"], 1 - outputs["features"])
    np.testing.assert_allclose(sure, expected.features_confidence, rtol=1e-4)


def test_rows_that_nothing_was_fitted_to_are_features_too(tmp_path: Path) -> None:
    known = {"reader": "table", "features": list("abcde"), "packed_bits": None, "standardization": None}
    bundle = bundle_of(preprocessing=known, tasks=tl.TaskSet(tl.Regression("age")))
    assert export_onnx(bundle, tmp_path / "rows.onnx").input_name == "features"
    rows = torch.randn(3, 5)
    outputs = run(tmp_path / "rows.onnx", "features", rows.numpy())
    np.testing.assert_allclose(outputs["age"], bundle.predict(rows)["age"], rtol=1e-4)


def test_windows_go_in_before_they_are_normalised(tmp_path: Path) -> None:
    normalizer = Normalizer(np.array([1.0, -3.0, 0.2]), np.array([2.0, 0.1, 5.0]), clip=1.5)
    bundle = bundle_of("conv1d", preprocessing={"reader": "wav", "normalizer": normalizer.to_dict()})
    found = export_onnx(bundle, tmp_path / "words.onnx")
    assert (found.input_name, found.input_type) == ("windows", "float32")
    windows = torch.randn(3, 32, 3) * 4.0
    outputs = run(tmp_path / "words.onnx", "windows", windows.numpy())
    expected = bundle.predict(normalizer.apply_(windows.clone()))
    assert (normalizer.apply_(windows.clone()).abs() == 1.5).any()  # the clip is at work
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-4, atol=1e-4)


def test_windows_of_people_go_in_normalised_and_are_limited(tmp_path: Path) -> None:
    mean, scale = np.array([[1.0, -3.0, 0.2], [0.0, 1.0, 2.0]]), np.array([[2.0, 0.1, 5.0], [1.0, 3.0, 0.5]])
    normalizer = Normalizer(mean, scale, clip=1.5, persons=("P1", "P2"))
    bundle = bundle_of("conv1d", preprocessing={"reader": "edf", "normalizer": normalizer.to_dict()})
    export_onnx(bundle, tmp_path / "signs.onnx")
    windows = torch.randn(4, 32, 3) * 4.0
    people = ["P2", "P1", "P1", "P2"]
    expected = bundle.predict(normalizer.apply_(windows.clone(), people))
    rows = [0 if person == "P1" else 1 for person in people]
    given = (windows.numpy() - mean[rows, None]) / scale[rows, None]  # what the metadata asks for, no more
    assert (np.abs(given) > 1.5).any()
    outputs = run(tmp_path / "signs.onnx", "windows", given.astype(np.float32))
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, rtol=1e-4, atol=1e-4)
    asked = about(tmp_path / "signs.onnx")["input"]["normalization"]
    assert (asked["where"], asked["per"], asked["people_of_training"]) == ("before", "person", ["P1", "P2"])
    assert asked["limit"] == {"deviations": 1.5, "where": "in the graph"}


def about(path: Path) -> dict[str, Any]:
    (text,) = [entry.value for entry in onnx.load(path).metadata_props if entry.key == "taskloom"]
    return dict(json.loads(text))


@pytest.mark.parametrize(
    ("encoder", "preprocessing", "expected"),
    [
        ("vgg5", IMAGES, {"where": "in the graph", "per": "channel"}),
        ("conv1d", {"reader": "wav", "normalizer": None}, {"where": "nowhere", "per": None}),
        ("conv1d", {}, {"where": "before", "per": None}),
    ],
)
def test_a_file_says_how_its_input_is_normalised(
    tmp_path: Path, encoder: str, preprocessing: dict[str, Any], expected: dict[str, Any]
) -> None:
    bundle = bundle_of(encoder, preprocessing=preprocessing)
    found = export_onnx(bundle, tmp_path / "net.onnx")
    assert about(tmp_path / "net.onnx")["input"]["normalization"] == expected
    assert found.input_name == {"vgg5": "images"}.get(encoder, "windows" if preprocessing else "inputs")
    if expected["where"] == "nowhere":
        windows = torch.randn(3, 32, 3) * 40.0
        outputs = run(tmp_path / "net.onnx", "windows", windows.numpy())
        for name, values in bundle.predict(windows).items():
            np.testing.assert_allclose(outputs[name], values, rtol=1e-4, atol=1e-4)


def test_a_file_says_what_it_predicts(tmp_path: Path) -> None:
    found = export_onnx(bundle_of("vgg5", preprocessing=IMAGES), tmp_path / "faces.onnx")
    model = onnx.load(tmp_path / "faces.onnx")
    onnx.checker.check_model(model)
    (about,) = [json.loads(entry.value) for entry in model.metadata_props if entry.key == "taskloom"]
    assert tl.TaskSet.from_dicts(about["tasks"]) == TASKS
    assert about["preprocessing"] == IMAGES
    assert about["versions"] == {"taskloom": "here"}
    assert found.outputs == {
        "age": "value in years",
        "gender": "probability of M",
        "mood": "probabilities of sad, glad, none, both and 1 more",
        "worn": "probability of each of hat, scarf",
        "grade": "level",
        "face": "pixels x, y of 0, 1",
    }
    assert found.num_bytes == (tmp_path / "faces.onnx").stat().st_size
    assert found.difference <= 1e-5


def test_a_difference_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the one before")
    bundle = bundle_of()
    exported = module._exported

    def other(whole: Any, place: Path) -> bytes:
        content = exported(whole, place)
        with torch.no_grad():
            next(whole.network.parameters()).add_(1.0)
        return content

    monkeypatch.setattr(module, "_exported", other)
    with pytest.raises(DataError, match=r"task age in ONNX Runtime differ .*nothing was written"):
        export_onnx(bundle, path)
    assert path.read_bytes() == b"the one before"
    assert list(tmp_path.iterdir()) == [path]


class ReadsValues(nn.Module):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs if inputs.mean().item() > 0 else -inputs


def test_what_cannot_be_exported_says_so(tmp_path: Path) -> None:
    own = Encoder([ReadsValues(), nn.Linear(5, 4)], input_shape=(5,))
    model = tl.sharing.build("hard_sharing", own, TASKS, stages=2).eval()
    bundle = Bundle(model, TASKS, {}, {}, {"input_shape": [5]}, {})
    with pytest.raises(DataError, match="exporter cannot follow this network"):
        export_onnx(bundle, tmp_path / "net.onnx")
    combined = {"reader": "combined", "sets": {"indoors": {}, "outdoors": {}}}
    with pytest.raises(DataError, match="one of indoors, outdoors"):
        export_onnx(bundle_of(preprocessing=combined), tmp_path / "net.onnx")
    with pytest.raises(DataError, match="cannot be written"):
        export_onnx(bundle_of(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "onnxscript":
            raise ImportError("No module named 'onnxscript'", name=name)
        return import_module(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"onnxscript is not installed.*taskloom\[onnx\]"):
        export_onnx(bundle_of(), tmp_path / "net.onnx")


def test_the_command_says_what_goes_in_and_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    tasks = tl.TaskSet(tl.Regression("age", unit="years"))
    model = tl.sharing.build("single_task", tl.encoders.mlp((5,), hidden=[3]), tasks)
    how: dict[str, Any] = {"encoder": {"name": "mlp", "hidden": [3]}, "sharing": {"name": "single_task"}}
    save_bundle("people", model, input_shape=(5,), **how)
    result = CliRunner().invoke(app, ["export", "people.bundle"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("people.onnx  0.0 MiB")
    assert lines[1:3] == [
        "input    inputs [batch, 5] float32: prepared as in training",
        "output   age: value in years",
    ]
    rows = torch.randn(2, 5)
    np.testing.assert_allclose(
        run(Path("people.onnx"), "inputs", rows.numpy())["age"],
        load_bundle("people.bundle").predict(rows)["age"],
        rtol=1e-5,
    )


@pytest.mark.parametrize("sharing", ["ple", "sluice"])
def test_tasks_that_were_trained_beside_leave_no_trace_of_the_size_of_a_batch(
    tmp_path: Path, sharing: str
) -> None:
    """Where auxiliary tasks are left out, modules that nobody reads give zeros for any number of rows."""
    tasks = tl.TaskSet(
        tl.Binary("smile"),
        tl.Multiclass("mood", 3, role="auxiliary"),
        tl.Multiclass("person", 4, role="adversarial"),
    )
    settings: dict[str, Any] = {
        "input_shape": (5,),
        "encoder": {"name": "mlp", "hidden": [6, 6]},
        "sharing": {"name": sharing, **SETTINGS[sharing]},
        "head": {"hidden": [4]},
    }
    torch.manual_seed(1)
    network = tl.deploy.build_network(settings, tasks)
    bundle = load_bundle(save_bundle(tmp_path / "net.bundle", network, **settings))
    assert list(bundle.tasks) == ["smile"]
    export_onnx(bundle, tmp_path / "net.onnx")
    for number in (1, 5):
        rows = torch.randn(number, 5)
        found = run(tmp_path / "net.onnx", "inputs", rows.numpy())
        np.testing.assert_allclose(found["smile"], bundle.predict(rows)["smile"], rtol=1e-4, atol=1e-5)
