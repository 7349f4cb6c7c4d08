"""A bundle gives back the same outputs for every architecture, and refuses what is not one."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import taskloom.deploy.bundle as module
from _bundles import ENCODER_SETTINGS, SETTINGS
from taskloom import Binary, Landmarks, Multiclass, Regression, TaskSet, encoders, sharing
from taskloom.deploy import build_network, load_bundle, save_bundle
from taskloom.errors import ConfigError, DataError

TASKS = TaskSet(
    Regression("age", unit="years", center=40.25, scale=9.5, range=(0, 116)),
    Binary("gender", ("F", "M")),
    Multiclass("mood", 3, role="auxiliary"),
    Landmarks("face", 2, reference=(0, 1)),
)
ENCODER = {"name": "mlp", "hidden": [6, 4]}


def settings_of(
    name: str, encoder: dict[str, Any] = ENCODER, shape: tuple[int, ...] = (5,)
) -> dict[str, Any]:
    return {"input_shape": shape, "encoder": encoder, "sharing": {"name": name, **SETTINGS[name]}}


def make(settings: dict[str, Any], tasks: TaskSet = TASKS) -> sharing.MultiTaskNetwork:
    torch.manual_seed(7)
    network = build_network({"head": None, **settings}, tasks)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def saved(tmp_path: Path, **more: Any) -> Path:
    settings = settings_of("hard_sharing")
    return save_bundle(tmp_path / "faces", make(settings), **settings, **more)


def test_every_architecture_is_covered() -> None:
    assert set(SETTINGS) == set(sharing.ARCHITECTURES)
    assert set(ENCODER_SETTINGS) == set(encoders.ENCODERS)


@pytest.mark.parametrize("name", SETTINGS)
def test_same_outputs_after_a_round_trip(name: str, tmp_path: Path) -> None:
    settings = {
        **settings_of(name),
        "head": {"age": {"hidden": [3]}, "mood": {"norm": "batch", "hidden": [2]}},
    }
    network, inputs = make(settings), torch.randn(9, 5)
    network(inputs)  # moves the running means of the batch normalisation
    path = save_bundle(tmp_path / "faces.bundle", network, **settings, keep_auxiliary=True)
    bundle = load_bundle(path)
    network.eval()
    with torch.no_grad():
        expected, found = network(inputs), bundle.model(inputs)
    assert expected.keys() == found.keys()
    for task in expected:
        assert torch.equal(expected[task], found[task])
    assert bundle.tasks == network.tasks
    assert bundle.model.penalty().item() == network.penalty().item()
    predicted = bundle.predict(inputs)
    torch.testing.assert_close(predicted["age"], (expected["age"][:, 0] * 9.5 + 40.25).clamp(0, 116))
    assert predicted["face"].shape == (9, 2, 2)


@pytest.mark.parametrize("name", ENCODER_SETTINGS)
def test_same_outputs_for_every_encoder(name: str, tmp_path: Path) -> None:
    shape, encoder = ENCODER_SETTINGS[name]
    settings = settings_of("hard_sharing", {"name": name, **encoder}, shape)
    network, inputs = make(settings, TASKS.subset(["gender"])), torch.rand(2, *shape)
    bundle = load_bundle(save_bundle(tmp_path / "x", network, **settings))
    with torch.no_grad():
        assert torch.equal(bundle.model(inputs)["gender"], network.eval()(inputs)["gender"])


def test_what_travels_with_it(tmp_path: Path) -> None:
    preprocessing = {"mean": [0.1, 1 / 3], "scale": [1.0, 2.0]}
    about = {"sources": {"a.csv": "ab12"}, "test": {"age": {"mae": 5.5}}}
    path = saved(tmp_path, preprocessing=preprocessing, about=about)
    assert sorted(file.name for file in path.iterdir()) == ["bundle.json", "weights.safetensors"]
    assert [file.name for file in tmp_path.iterdir()] == ["faces.bundle"]
    bundle = load_bundle(path)
    assert (bundle.preprocessing, bundle.about) == (preprocessing, about)
    assert bundle.settings["sharing"] == {"name": "hard_sharing", "stages": 1, "from": "output"}
    assert bundle.versions["torch"] == torch.__version__


def test_loading_disturbs_no_random_state(tmp_path: Path) -> None:
    path = saved(tmp_path)
    state = torch.get_rng_state()
    load_bundle(path)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_older_bundle_is_replaced_and_another_folder_is_not(tmp_path: Path) -> None:
    saved(tmp_path, about={"n": 1})
    assert load_bundle(saved(tmp_path, about={"n": 2})).about == {"n": 2}
    (tmp_path / "mine.bundle").mkdir()
    (tmp_path / "mine.bundle" / "thesis.txt").write_text("years of work")
    settings = settings_of("hard_sharing")
    with pytest.raises(ConfigError, match=r"mine\.bundle exists and is not a bundle"):
        save_bundle(tmp_path / "mine", make(settings), **settings)
    assert (tmp_path / "mine.bundle" / "thesis.txt").exists()


@pytest.mark.parametrize("older", [True, False])
def test_a_full_disk_leaves_what_was_there(
    older: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if older:
        saved(tmp_path, about={"n": 1})
    calls = 0

    def full_at_the_second(path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    monkeypatch.setattr(module, "write_atomically", full_at_the_second)
    with pytest.raises(DataError, match=r"faces\.bundle: the bundle cannot be written \(No space left"):
        saved(tmp_path, about={"n": 2})
    assert [file.name for file in tmp_path.iterdir()] == (["faces.bundle"] if older else [])
    if older:
        assert load_bundle(tmp_path / "faces.bundle").about == {"n": 1}


def test_an_encoder_of_ones_own_modules_says_the_way_out(tmp_path: Path) -> None:
    encoder = encoders.from_modules([torch.nn.Linear(5, 3)], (5,))
    network = sharing.build("single_task", encoder, TASKS)
    settings = {"input_shape": (5,), "encoder": {"name": "from_modules"}, "sharing": {"name": "single_task"}}
    with pytest.raises(
        ConfigError, match=r"from_modules` is not registered.*@taskloom\.encoders\.ENCODERS\.register"
    ):
        save_bundle(tmp_path / "own", network, **settings)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"encoder": {"name": "mlp", "hidden": [6, 7]}},
            r"do not build this network again: .* is \[4, 6\] in the",
        ),
        ({"sharing": {"name": "single_task"}}, "do not build this network again: .* absent"),
        ({"encoder": {"name": "mlp", "hiden": [6]}}, "Did you mean `hidden`"),
        ({"sharing": {"name": "hard_sharin", "stages": 1}}, "Did you mean `hard_sharing`"),
        ({"about": {"score": float("nan")}}, "plain values only"),
        ({"preprocessing": {"mean": torch.zeros(2)}}, "plain values only"),
    ],
)
def test_settings_that_do_not_fit(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    settings = settings_of("hard_sharing")
    with pytest.raises(ConfigError, match=message):
        save_bundle(tmp_path / "faces", make(settings), **{**settings, **change})
    assert not list(tmp_path.iterdir())


def test_folders_that_are_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a bundle \(a folder with bundle\.json and weights"):
        load_bundle(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="a bundle"):
        load_bundle(tmp_path / "file")
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "right folder"),
        ('{"format": "x"}', "right folder"),
    ):
        (tmp_path / "bundle.json").write_text(text)
        with pytest.raises(DataError, match=message):
            load_bundle(tmp_path)


def test_another_version(tmp_path: Path) -> None:
    path = saved(tmp_path)
    described = json.loads((path / "bundle.json").read_text())
    described["version"] = 99
    (path / "bundle.json").write_text(json.dumps(described))
    with pytest.raises(
        DataError, match="a bundle of version 1 expected, found version 99; load it with taskloom"
    ):
        load_bundle(path)


def test_damaged_weights(tmp_path: Path) -> None:
    path = saved(tmp_path)
    weights = path / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(
        DataError, match=rf"{len(whole):,} bytes expected, found {len(whole) - 100:,}; the file is cut"
    ):
        load_bundle(path)
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(DataError, match="was changed after it was saved"):
        load_bundle(path)
    weights.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        load_bundle(path)


def test_weights_of_another_network(tmp_path: Path) -> None:
    path = saved(tmp_path)
    described = json.loads((path / "bundle.json").read_text())
    described["settings"]["encoder"]["hidden"] = [6, 7]
    del described["sha256"]  # as in older bundles
    (path / "bundle.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="the weights do not fit the network"):
        load_bundle(path)


@pytest.mark.parametrize("inputs", [torch.zeros(3, 4), torch.zeros(5), [[0.0] * 5]])
def test_inputs_of_another_shape_are_refused_in_words(tmp_path: Path, inputs: Any) -> None:
    bundle = load_bundle(saved(tmp_path))
    size = bundle.settings["input_shape"][0]
    assert bundle.predict(torch.zeros(2, size))["age"].shape == (2,)
    found = list(inputs.shape) if isinstance(inputs, torch.Tensor) else "list"
    with pytest.raises(DataError) as error:
        bundle.predict(inputs)
    assert str(error.value) == f"inputs: a tensor of shape [N, {size}] expected, found {found}."
