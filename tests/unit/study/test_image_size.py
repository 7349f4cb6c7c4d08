"""The size of images, said of the encoder as EXPERIENCE.md does, or of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import taskloom as tl
from _small_study import FACES, Watcher, read
from taskloom.data.simulate.utkface import simulate_utkface
from taskloom.errors import ConfigError
from taskloom.study.image_size import with_image_size
from taskloom.study.runner import plan_study, run_study

SIZED = FACES.replace("{reader: utkface, size: 32}", "{reader: utkface}").replace(
    "{name: vgg5}", "{name: vgg5, size: 32}"
)


def test_a_size_of_the_encoder_is_that_of_the_stored_images(tmp_path: Path) -> None:
    simulate_utkface(tmp_path, images=40, size=40)
    said, other = read(text=FACES), read(text=SIZED)
    assert other.config == said.config
    (first, *_), (second, *_) = (
        plan_study(study, tmp_path / "out", data=tmp_path).specs for study in (said, other)
    )
    assert first.id == second.id  # a study goes on, whichever way it is said
    outcome = run_study(other, tmp_path / "out", Watcher(), data=tmp_path)
    assert outcome.failed == 0


@pytest.mark.parametrize(
    "encoder",
    [
        {"name": "resnet18", "size": 48, "prepare": True},  # the encoder brings them there itself
        {"name": "resnet18", "size": 48, "weights": "resnet18.pth"},
        {"name": "vgg5"},
        {"name": "vgg5", "size": [48, 40]},  # which no store has
    ],
)
def test_elsewhere_the_encoder_keeps_its_size(encoder: dict[str, Any]) -> None:
    assert with_image_size({"reader": "utkface"}, encoder) == ({"reader": "utkface"}, encoder)


def test_an_own_encoder_may_have_a_size_that_means_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def own(input_shape: tuple[int, ...], *, size: int = 3) -> tl.encoders.Encoder:
        raise NotImplementedError

    monkeypatch.setitem(tl.encoders.ENCODERS._entries, "own_with_size", own)
    encoder = {"name": "own_with_size", "size": 5}
    assert with_image_size({"reader": "images"}, encoder) == ({"reader": "images"}, encoder)
    assert with_image_size({"reader": "table"}, {"name": "vgg5", "size": 32})[1] == {
        "name": "vgg5",
        "size": 32,
    }


def test_two_sizes_that_disagree_are_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"people.yaml:6: encoder.size: vgg5 takes .* data.size: 48 .* than 32"
    ):
        read(text=SIZED.replace("reader: utkface", "reader: utkface, size: 48"))
