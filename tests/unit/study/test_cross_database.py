"""A bundle on other data, and its page: labels by name against a naive mapping, metrics against sklearn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, mean_absolute_error

import _small_study
import taskloom as tl
from taskloom.data.face_store import prepare_faces, read_rows
from taskloom.data.image_store import ImageStore
from taskloom.data.simulate.utkface import simulate_utkface
from taskloom.deploy import Bundle, load_bundle, save_bundle
from taskloom.errors import ConfigError, DataError
from taskloom.study.cross_database import NameMap, other_store, other_study
from taskloom.study.explained import explain_bundles, explain_study
from taskloom.study.runs import data_request
from taskloom.training import evaluate

STANDARDIZATION = {"mean": [0.5, 0.4, 0.3], "deviation": [0.2, 0.25, 0.3]}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cross")
    simulate_utkface(place / "utk", images=40, size=48, lacking=2)
    prepare_faces("utkface", place / "utk", place / "store", {"size": 32})
    torch.manual_seed(0)
    tasks = tl.TaskSet(
        tl.Regression("age", unit="years", center=30.0, scale=10.0),
        tl.Binary("sex", ("woman", "male")),
        tl.Multiclass("race", ("Black", "white", "Asian")),
        tl.Binary("smile"),
    )
    model = tl.sharing.build("hard_sharing", tl.encoders.vgg5((3, 32, 32)), tasks, stages=5)
    preprocessing = {"reader": "images", "size": 32, "standardization": STANDARDIZATION}
    save_bundle(
        place / "shared",
        model,
        input_shape=(3, 32, 32),
        encoder={"name": "vgg5"},
        sharing={"name": "hard_sharing", "stages": 5},
        preprocessing=preprocessing,
    )
    return place


@pytest.fixture
def bundle(faces: Path) -> Bundle:
    return load_bundle(faces / "shared.bundle")


def test_other_faces_are_evaluated_as_a_naive_loop_does(faces: Path, bundle: Bundle) -> None:
    names = NameMap.read(["sex=gender", "sex:female=woman"], bundle.tasks)
    other = other_store(bundle, faces / "store", names)
    found = evaluate(bundle.model, other.dataset)

    rows, store = read_rows(faces / "store"), ImageStore.open(faces / "store")
    mean, deviation = (np.array(STANDARDIZATION[name]) for name in ("mean", "deviation"))
    pixels = ((np.asarray(store.images) / 255 - mean) / deviation).transpose(0, 3, 1, 2)
    said = bundle.predict(torch.from_numpy(pixels).float())
    ages, genders, races = rows.numbers("age"), rows.text("gender"), rows.text("race")
    np.testing.assert_allclose(
        found.value("age", "mae"), mean_absolute_error(ages, said["age"].numpy()), rtol=1e-4
    )
    there = genders != ""
    expected = accuracy_score(genders[there] == "male", said["sex"].numpy()[there] > 0.5)
    np.testing.assert_allclose(found.value("sex", "accuracy"), expected)
    known = np.isin(races, ["Black", "White", "Asian"])
    codes = {"Black": 0, "White": 1, "Asian": 2}
    expected = accuracy_score([codes[r] for r in races[known]], said["race"].numpy().argmax(1)[known])
    np.testing.assert_allclose(found.value("race", "accuracy"), expected)
    assert found.count("race") == known.sum()
    assert found.count("smile") == 0
    told = " ".join(other.notes)
    for name in ("Indian", "Others"):
        if (races == name).any():
            assert f"does not know the class `{name}`: {(races == name).sum()} rows left out" in told
    assert "smile: no labels there" in told


def test_another_study_is_standardised_as_the_bundle_was(faces: Path, bundle: Bundle) -> None:
    study = _small_study.read(text=_small_study.FACES)
    splits = data_request(study, 0, faces / "utk", faces / "stores").load()
    names = NameMap.read(["sex=gender", "sex:female=woman"], bundle.tasks)
    other = other_study(bundle, splits, "test", names, Path("faces.yaml"))
    batch = other.dataset.__getitems__([0, 3])
    images = splits.test.store.images[splits.test.rows[[0, 3]]]  # type: ignore[attr-defined]
    mean, deviation = (np.array(STANDARDIZATION[name]) for name in ("mean", "deviation"))
    expected = ((images / 255 - mean) / deviation).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(batch.inputs.numpy(), expected, rtol=1e-4, atol=1e-5)
    theirs = splits.test.labels
    assert torch.equal(other.dataset.labels.values["age"], theirs.values["age"])
    there = theirs.present["gender"]
    assert torch.equal(other.dataset.labels.values["sex"][there], 1 - theirs.values["gender"][there])


def test_one_person_is_enough_to_test_on(faces: Path, bundle: Bundle) -> None:
    (faces / "one").mkdir()
    for path in sorted((faces / "utk" / "UTKFace").glob("*_1_*_*.jpg*"))[:4]:
        (faces / "one" / path.name).write_bytes(path.read_bytes())
    prepare_faces("utkface", faces / "one", faces / "one_store", {"size": 32})
    names = NameMap.read(["sex=gender", "sex:female=woman"], bundle.tasks)
    other = other_store(bundle, faces / "one_store", names)
    present = other.dataset.labels.present["sex"]
    assert other.dataset.labels.values["sex"][present].tolist() == [0] * int(present.sum())
    assert "sex: the other data have no class `male`." not in " ".join(other.notes)  # known, not there


def test_mistakes_are_named(faces: Path, bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=r"`ages` is not a task of the bundle\. Did you mean `age`"):
        NameMap.read(["ages=age"], bundle.tasks)
    with pytest.raises(ConfigError, match="`man` is not a class of sex"):
        NameMap.read(["sex:M=man"], bundle.tasks)
    with pytest.raises(ConfigError, match="`task=their name` or `task:their class=our class` expected"):
        NameMap.read(["sex"], bundle.tasks)
    prepare_faces("utkface", faces / "utk", faces / "small", {"size": 16})
    with pytest.raises(DataError, match=r"images of 32 pixels expected.*found 16; prepare .* `--size 32`"):
        other_store(bundle, faces / "small", NameMap())
    with pytest.raises(DataError, match=r"store\.json is missing"):
        other_store(bundle, faces, NameMap())


def test_the_page_shows_tasks_and_models_side_by_side(faces: Path) -> None:
    study = _small_study.read(text=_small_study.FACES)
    _small_study.run_study(study, faces / "out", _small_study.Watcher(), data=faces / "utk")
    page = explain_study(faces / "out", data=faces / "utk", images=3)
    assert page.count("data:image/jpeg") == 3 * (1 + 2 * 2)  # the image; two tasks, alone and shared
    assert page.index("<small>alone") < page.index("<small>hard sharing 3")
    assert 'src="http' not in page
    with pytest.raises(ConfigError, match="`stage_9` is not a stage"):
        explain_study(faces / "out", data=faces / "utk", images=1, stage="stage_9")
    with pytest.raises(DataError, match="the folder of a study expected"):
        explain_study(faces / "utk", data=None, images=1)
    shown = explain_bundles([faces / "shared.bundle"], faces / "store", images=2)
    assert shown.count("data:image/jpeg") == 2 * (1 + 4)
