"""An exported file is used where there is neither PyTorch nor taskloom, by the script of docs/predict.md."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pandas as pd
import pytest
import torch

from _onnx import IMAGES, bundle_of, run
from _predict import SIZE, TASKS, image_bundle
from _web import table_bundle
from taskloom.data.normalize import Normalizer
from taskloom.deploy import export_onnx, load_bundle
from taskloom.errors import ConfigError, DataError
from taskloom.predict import PredictSettings, open_source, predict_faces, predict_table

PAGE = Path(__file__).parents[3] / "docs" / "predict.md"
_ALONE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "taskloom", "onnx", "cv2", "pandas"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""


def alone(file: Path, rows: Path) -> Any:
    """What the page's script says of rows, in a process that has onnxruntime and NumPy only."""
    (block,) = re.findall(r"```python\n(import hashlib.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    script = block.replace("faces.onnx", file.name)
    end = f"print(json.dumps(predict(np.load({rows.name!r}))))"
    done = subprocess.run(
        [sys.executable, "-c", f"{_ALONE}\n{script}\n{end}"],
        cwd=file.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


def test_a_program_without_pytorch_says_of_faces_what_predict_says(tmp_path: Path) -> None:
    bundle = load_bundle(image_bundle(tmp_path))
    export_onnx(bundle, tmp_path / "net.onnx")
    draw = np.random.default_rng(4)
    faces = draw.integers(0, 256, (7, SIZE, SIZE, 3), dtype=np.uint8)
    faces[0], faces[1] = 0, 255
    (tmp_path / "faces").mkdir()
    for number, face in enumerate(faces):
        cv2.imwrite(str(tmp_path / "faces" / f"{number}.png"), face[..., ::-1])
    np.save(tmp_path / "rows.npy", faces)
    settings = PredictSettings(detector="none", device="cpu")
    source = open_source(str(tmp_path / "faces"))
    predict_faces(bundle, source, table=tmp_path / "out.parquet", settings=settings)
    expected = pd.read_parquet(tmp_path / "out.parquet")
    found = alone(tmp_path / "net.onnx", tmp_path / "rows.npy")
    assert list(found) == [task.name for task in TASKS]
    np.testing.assert_allclose(found["age"], expected.age, rtol=1e-4)
    assert found["gender"] == expected.gender.tolist()
    assert found["mood"] == expected.mood.tolist()
    worn = [[n for n in ("hat", "scarf") if row[f"wears_{n}"]] for _, row in expected.iterrows()]
    assert found["wears"] == worn
    points = [f"points_{name}_{axis}" for name in ("eye", "nose") for axis in "xy"]
    np.testing.assert_allclose(np.reshape(found["points"], (7, 4)), expected[points], rtol=1e-3, atol=1e-3)


def test_a_program_without_pytorch_says_of_rows_what_predict_says(tmp_path: Path) -> None:
    bundle = load_bundle(table_bundle(tmp_path))
    export_onnx(bundle, tmp_path / "net.onnx")
    rows = pd.read_csv(tmp_path / "people.csv")[["a", "b", "c"]]
    rows.iloc[3, 1] = np.nan  # imputed in the graph
    rows.to_csv(tmp_path / "new.csv", index=False)
    np.save(tmp_path / "rows.npy", rows.to_numpy(np.float32))
    predict_table(bundle, tmp_path / "new.csv", tmp_path / "out.parquet", device="cpu")
    expected = pd.read_parquet(tmp_path / "out.parquet")
    found = alone(tmp_path / "net.onnx", tmp_path / "rows.npy")
    np.testing.assert_allclose(found["age"], expected.age, rtol=1e-4)
    assert found["sex"] == expected.sex.tolist()
    assert found["mood"] == expected.mood.tolist()
    values = rows.to_numpy(np.float32)
    values[1, 0] = np.inf  # which is no missing value
    np.save(tmp_path / "rows.npy", values)
    broken = alone(tmp_path / "net.onnx", tmp_path / "rows.npy")
    assert broken["sex"] == [*found["sex"][:1], None, *found["sex"][2:]]
    assert broken["age"][1] is broken["mood"][1] is None


def test_a_file_of_ready_cut_faces_says_how_they_lie_in_their_images(tmp_path: Path) -> None:
    bundle = load_bundle(image_bundle(tmp_path))
    for framing in (None, {"detector": "haar", "side": 0.95, "right": 0.01, "down": 0.09}):
        export_onnx(replace(bundle, about={**bundle.about, "framing": framing}), tmp_path / "net.onnx")
        entries = {entry.key: entry.value for entry in onnx.load(tmp_path / "net.onnx").metadata_props}
        assert json.loads(entries["taskloom"])["framing"] == framing


def test_a_file_that_was_changed_is_found_out_by_the_file_alone(tmp_path: Path) -> None:
    bundle = load_bundle(table_bundle(tmp_path))
    export_onnx(bundle, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    weights = max(model.graph.initializer, key=lambda each: len(each.raw_data))
    weights.raw_data = bytes(reversed(weights.raw_data))
    onnx.save(model, tmp_path / "changed.onnx")
    np.save(tmp_path / "rows.npy", np.zeros((1, 3), np.float32))
    assert "not the file that was exported" in alone(tmp_path / "changed.onnx", tmp_path / "rows.npy")


def test_a_file_says_whose_weights_it_holds_and_how_outputs_are_read(tmp_path: Path) -> None:
    path = table_bundle(tmp_path)
    export_onnx(load_bundle(path), tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}["taskloom"])
    said = json.loads((path / "bundle.json").read_text())
    assert about["weights_sha256"] == said["weights"]["sha256"]
    assert about["versions"] == said["versions"]
    assert about["preprocessing"]["features"] == ["a", "b", "c"]
    assert (about["input"]["shape"], about["input"]["type"]) == (["batch", 3], "float32")
    assert about["outputs"] == {
        "age": {"kind": "regression", "meaning": "value in years", "classes": [], "unit": "years"},
        "sex": {"kind": "binary", "meaning": "probability of M", "classes": ["F", "M"], "unit": ""},
        "mood": {
            "kind": "multiclass",
            "meaning": "probabilities of calm, glad, sad",
            "classes": ["calm", "glad", "sad"],
            "unit": "",
        },
    }
    axes = [
        value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)
    ]
    assert axes == ["batch"] * 4
    assert {value.name: value.doc_string for value in model.graph.output}["sex"] == "probability of M"


@pytest.mark.parametrize("encoder", ["conv1d", "deap_cnn", "lstm"])  # pooling and recurrence lose a NaN
def test_a_window_that_is_not_finite_has_no_predictions(tmp_path: Path, encoder: str) -> None:
    channels = bundle_of(encoder).settings["input_shape"][1]
    normalizer = Normalizer(np.arange(channels) - 1.0, np.linspace(0.5, 3, channels))
    bundle = bundle_of(encoder, preprocessing={"reader": "wav", "normalizer": normalizer.to_dict()})
    export_onnx(bundle, tmp_path / "net.onnx")
    windows = np.random.default_rng(2).normal(size=(4, *bundle.settings["input_shape"])).astype(np.float32)
    whole = run(tmp_path / "net.onnx", "windows", windows)
    windows[1, 3, 0], windows[2, 0, 1] = np.nan, -np.inf
    found = run(tmp_path / "net.onnx", "windows", windows)
    for name, values in found.items():
        assert np.isnan(values[1:3]).all(), name
        np.testing.assert_allclose(values[[0, 3]], whole[name][[0, 3]], rtol=1e-5, atol=1e-5)


def test_a_feature_that_is_not_finite_has_no_predictions_unless_it_is_filled_in(tmp_path: Path) -> None:
    fitted: dict[str, Any] = {"center": [1.0] * 5, "scale": [2.0] * 5, "fill": [3.0] * 5}
    known = {"reader": "table", "features": list("abcde"), "packed_bits": None, "standardization": fitted}
    rows = np.ones((3, 5), np.float32)
    rows[1, 2], rows[2, 0] = np.nan, np.inf
    for fill, lost in (([3.0] * 5, [2]), (None, [1, 2])):
        bundle = bundle_of(preprocessing={**known, "standardization": {**fitted, "fill": fill}})
        export_onnx(bundle, tmp_path / "net.onnx")
        for name, values in run(tmp_path / "net.onnx", "features", rows).items():
            assert [row for row in range(3) if np.isnan(values[row]).all()] == lost, name


def test_weights_in_half_the_bytes_predict_nearly_the_same(tmp_path: Path) -> None:
    bundle = bundle_of("vgg5", preprocessing=IMAGES)
    whole = export_onnx(bundle, tmp_path / "whole.onnx")
    half = export_onnx(bundle, tmp_path / "half.onnx", weights="float16")
    assert half.num_bytes < 0.75 * whole.num_bytes  # the graph itself takes some
    assert half.difference <= 1e-2
    model = onnx.load(tmp_path / "half.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert (
        json.loads({entry.key: entry.value for entry in model.metadata_props}["taskloom"])["weights"]
        == "float16"
    )
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    expected, found = (run(tmp_path / f"{name}.onnx", "images", pixels) for name in ("whole", "half"))
    # By another route: PyTorch with weights that were rounded to float16.
    rounded = copy.deepcopy(bundle)
    for parameter in rounded.model.parameters():
        if parameter.numel() >= 256:
            parameter.data = parameter.data.half().float()
    export_onnx(rounded, tmp_path / "rounded.onnx")
    for name, values in run(tmp_path / "rounded.onnx", "images", pixels).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)
        assert not np.array_equal(found[name], expected[name]) or name == "grade"


def test_weights_that_float16_cannot_hold_are_refused(tmp_path: Path) -> None:
    bundle = bundle_of("vgg5", preprocessing=IMAGES)
    with torch.no_grad():
        first = next(parameter for parameter in bundle.model.parameters() if parameter.numel() >= 256)
        first[0] = 1e5
    with pytest.raises(DataError, match=r"differ from PyTorch's by .*nothing was written"):
        export_onnx(bundle, tmp_path / "half.onnx", weights="float16")
    with pytest.raises(ConfigError, match="--weights: float32 or float16 expected, found `int8`"):
        export_onnx(bundle, tmp_path / "half.onnx", weights="int8")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
