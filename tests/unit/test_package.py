"""A wheel, built from the sdist, is whole: it works from an empty folder without the source tree."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import taskloom
from taskloom.recipes import recipe_of, recipes_folder

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "taskloom"
_LEFT = shutil.ignore_patterns("__pycache__", "*.egg-info", ".venv*", "build", "dist", "runs", ".git")

_USED = """
import json, pathlib, sys
import numpy as np, pandas as pd
from typer.testing import CliRunner
import taskloom as tl
from taskloom.cli import app
from taskloom.recipes import recipes_folder

def run(*words):
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == 0, (words, found.output, found.exception)
    return found.output

draw = np.random.default_rng(0)
table = pd.DataFrame(draw.normal(size=(120, 3)), columns=list("abc"))
table["pain"], table["ill"] = table.a + 1, np.where(table.b > 0, "yes", "no")
table.to_csv("people.csv", index=False)
run("init", "people.csv", "--tasks", "pain,ill")
few = ["--set", "training.epochs=1", "--set", "repeats=1", "--set", "cells=[{hard_sharing: {stages: 1}}]"]
run("study", "study.yaml", *few)
run("report", "runs/study")
run("train", "study.yaml", "--cell", "hard sharing 1", "--out", "people.bundle", *few)
run("predict", "people.bundle", "people.csv")
if "onnx" in sys.argv:
    run("export", "people.bundle")
page = None
if "serve" in sys.argv:
    from fastapi.testclient import TestClient
    page = TestClient(tl.deploy.web_app("people.bundle"), base_url="http://localhost").get("/").status_code
said = run("doctor")
print(json.dumps({
    "package": tl.__file__,
    "recipes": str(recipes_folder()),
    "doctor": said,
    "page": page,
    "written": sorted(path.name for path in pathlib.Path.cwd().iterdir()),
    "report": pathlib.Path("runs/study/report.html").stat().st_size,
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix into which a wheel was installed that was built from the sdist of this tree."""
    # Not `find_spec("pip")`: setuptools then keeps Python's own distutils, and its next import fails.
    known = {name: _version(name) for name in ("pip", "setuptools")}
    if known["setuptools"] < 77 or known["pip"] == 0:
        pytest.skip("pip and setuptools >= 77, which build the package, are not installed here")
    work = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT, work / "tree", ignore=_LEFT)
    _build("sdist", work / "tree", work)
    with tarfile.open(next(work.glob("taskloom-*.tar.gz"))) as archive:
        archive.extractall(work, filter="data")
    _build("wheel", _unpacked(work), work)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile"]
    wheel = str(next(work.glob("*.whl")))
    _run([*install, "--ignore-installed", "--prefix", str(work / "prefix"), wheel], work)
    shutil.rmtree(work / "tree")
    return work


def _version(package: str) -> int:
    """Its first number; 0 where it is not installed."""
    try:
        return int(importlib.metadata.version(package).partition(".")[0])
    except importlib.metadata.PackageNotFoundError:
        return 0


def _build(what: str, tree: Path, place: Path) -> None:
    _run([sys.executable, "-c", f"import setuptools.build_meta as b; b.build_{what}({str(place)!r})"], tree)


def _run(words: list[str], folder: Path, **environment: str) -> str:
    before = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=folder, env={**before, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def _unpacked(work: Path) -> Path:
    (found,) = (path for path in work.iterdir() if path.is_dir() and path.name.startswith("taskloom-"))
    return found


def _packages(installed: Path) -> Path:
    return next((installed / "prefix").glob("lib*/python*/site-packages"))


def test_the_wheel_holds_all_that_the_tree_does(installed: Path) -> None:
    def held(folder: Path) -> set[str]:
        files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(folder).as_posix() for path in files}

    assert held(_packages(installed) / "taskloom") == held(PACKAGE)
    recipes = installed / "prefix" / "share" / "taskloom" / "recipes"
    assert {path.name for path in recipes.iterdir()} == {path.name for path in (ROOT / "recipes").iterdir()}


def test_the_sdist_is_the_whole_source(installed: Path) -> None:
    unpacked = _unpacked(installed)
    for name in ("tests/conftest.py", "docs/predict.md", "docs/report.png", "benchmarks", "CHANGELOG.md"):
        assert (unpacked / name).exists(), name
    assert (unpacked / "tests/unit/test_package.py").read_bytes() == Path(__file__).read_bytes()


def test_what_is_installed_says_what_it_is(installed: Path) -> None:
    (described,) = _packages(installed).glob("taskloom-*.dist-info")
    about = importlib.metadata.Distribution.at(described)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert about.version == taskloom.__version__
    assert about.metadata["License-Expression"] == "MIT"
    assert about.metadata["Requires-Python"] == project["requires-python"]
    assert set(about.metadata.get_all("Provides-Extra") or ()) == set(project["optional-dependencies"])
    assert [(entry.name, entry.value) for entry in about.entry_points] == [("taskloom", "taskloom.cli:main")]
    assert (described / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_what_is_installed_works_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    extras = [name for name, module in (("onnx", "onnxscript"), ("serve", "fastapi")) if find_spec(module)]
    path, wide = str(_packages(installed)), {"COLUMNS": "300", "OMP_NUM_THREADS": "1"}
    told = _run([sys.executable, "-c", _USED, *extras], tmp_path, PYTHONPATH=path, **wide)
    found = json.loads(told.splitlines()[-1])
    assert Path(found["package"]).parent == _packages(installed) / "taskloom"
    assert {"study.yaml", "people.bundle", "people.predicted.csv", "runs"} <= set(found["written"])
    assert ("people.onnx" in found["written"]) == ("onnx" in extras)
    assert found["page"] == (200 if "serve" in extras else None)
    assert found["report"] > 10_000
    recipes = installed / "prefix" / "share" / "taskloom" / "recipes"
    assert Path(found["recipes"]) == recipes.resolve()
    assert str(recipes.resolve()) in found["doctor"]
    command = str(installed / "prefix" / "bin" / "taskloom")
    assert _run([command, "--version"], tmp_path, PYTHONPATH=path) == f"taskloom {taskloom.__version__}\n"


def test_every_package_that_is_imported_is_declared() -> None:
    """And every core package that is declared is imported: nobody downloads what nothing uses."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {"scikit-learn": "sklearn", "pillow": "PIL", "pyyaml": "yaml", "opencv-python-headless": "cv2"}

    def modules(requirements: list[str]) -> set[str]:
        plain = [re.split(r"[<>=!\[ ]", requirement, maxsplit=1)[0] for requirement in requirements]
        return {names.get(name, name).replace("-", "_") for name in plain}

    core = modules(project["dependencies"])
    optional = project["optional-dependencies"]
    extras = {name: modules(found) for name, found in optional.items() if name != "dev"}
    # FastAPI is Starlette; dlib is asked for by name and has no wheels that an extra could bring.
    declared = core.union(*extras.values(), {"starlette", "dlib", "taskloom"})
    found: dict[str, str] = {}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0]: str(file) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found[node.module.partition(".")[0]] = str(file)
    outside = {name: file for name, file in found.items() if name not in sys.stdlib_module_names}
    assert {name: file for name, file in outside.items() if name not in declared} == {}
    assert core - set(outside) == set()


def test_a_recipe_is_found_by_its_name(tmp_path: Path) -> None:
    assert recipes_folder() == ROOT / "recipes"
    assert recipe_of(Path("recipes/quickstart.yaml")) == ROOT / "recipes" / "quickstart.yaml"
    assert recipe_of(tmp_path / "study.yaml") is None
    assert recipe_of(Path(".")) is None
    from taskloom.errors import ConfigError
    from taskloom.study.config import load_study

    with pytest.raises(ConfigError, match=r"no such file.* taskloom's own quickstart.yaml is .*recipes"):
        load_study(tmp_path / "quickstart.yaml")
    with pytest.raises(ConfigError, match=r"a study file in YAML was expected\.$"):
        load_study(tmp_path / "mine.yaml")
