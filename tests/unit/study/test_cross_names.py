"""Names in `--map` that the other data do not have are refused instead of leaving the task out in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

import _small_study
from taskloom.data.face_store import prepare_faces
from taskloom.data.simulate.utkface import simulate_utkface
from taskloom.deploy import Bundle, load_bundle, save_bundle
from taskloom.encoders import vgg5
from taskloom.errors import ConfigError
from taskloom.sharing import build
from taskloom.study.cross_database import NameMap, other_store, other_study
from taskloom.study.runs import data_request
from taskloom.tasks import Binary, Regression, TaskSet


def bundle_of(folder: Path) -> Bundle:
    tasks = TaskSet(Regression("age", unit="years"), Binary("sex", ("woman", "male")))
    network = build("hard_sharing", vgg5((3, 32, 32)), tasks, stages=5)
    standardization = {"mean": [0.5] * 3, "deviation": [0.2] * 3}
    place = save_bundle(
        folder / "shared",
        network,
        input_shape=(3, 32, 32),
        encoder={"name": "vgg5"},
        sharing={"name": "hard_sharing", "stages": 5},
        preprocessing={"reader": "images", "size": 32, "standardization": standardization},
    )
    return load_bundle(place)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        (["sex=gendr"], r"--map sex=gendr: .* has no (column|task) `gendr`\. Did you mean `gender`\?"),
        (
            ["sex=gender", "sex:femle=woman"],
            r"--map sex:femle=woman: `femle` is not a class of .* Did you mean `female`\? Classes: male",
        ),
    ],
)
def test_a_name_that_is_not_there_is_refused(tmp_path: Path, maps: list[str], expected: str) -> None:
    simulate_utkface(tmp_path / "utk", images=40, size=48)
    bundle = bundle_of(tmp_path)
    study = _small_study.read(text=_small_study.FACES)
    splits = data_request(study, 0, tmp_path / "utk", tmp_path / "stores").load()
    prepare_faces("utkface", tmp_path / "utk", tmp_path / "store", {"size": 32})
    names = NameMap.read(maps, bundle.tasks)
    with pytest.raises(ConfigError, match=expected):
        other_store(bundle, tmp_path / "store", names)
    with pytest.raises(ConfigError, match=expected):
        other_study(bundle, splits, "test", names, Path("faces.yaml"))
    right = NameMap.read(["sex=gender", "sex:female=woman"], bundle.tasks)
    assert len(other_study(bundle, splits, "test", right, Path("faces.yaml")).dataset) == len(splits.test)
