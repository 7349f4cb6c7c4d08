"""Who predicts does not wait for what only training, reports and recordings need."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from _predict import image_bundle
from _web import table_bundle

_LOADED = """
import json, sys
from typer.testing import CliRunner
from taskloom.cli import app
found = CliRunner().invoke(app, json.loads(sys.argv[1]))
assert found.exit_code == 0, (found.output, found.exception)
print(json.dumps(sorted(sys.modules)))
"""
_OF_TRAINING = {
    "torchjd",
    "sklearn",
    "scipy.stats",
    "matplotlib",
    "taskloom.coupling",
    "taskloom.training.loop",
}


@pytest.mark.parametrize("kind", ["images", "table"])
def test_predicting_imports_what_it_uses(tmp_path: Path, kind: str) -> None:
    if kind == "images":
        bundle, source = image_bundle(tmp_path), tmp_path / "face.png"
        cv2.imwrite(str(source), np.full((40, 40, 3), 90, np.uint8))
        options = ["--detector", "none", "--overlay", "none"]
        needless = _OF_TRAINING | {"pandas", "scipy.optimize", "scipy.signal"}
    else:
        bundle, source, options = table_bundle(tmp_path), tmp_path / "people.csv", []
        needless = _OF_TRAINING | {"scipy.signal"}
    words = ["predict", str(bundle), str(source), *options, "--table", str(tmp_path / "out.csv")]
    done = subprocess.run(
        [sys.executable, "-c", _LOADED, json.dumps(words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & needless == set()
    assert (tmp_path / "out.csv").stat().st_size > 50
