"""Pretrained weights of a study: found beside its data, told apart by content; images handed over raw."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import taskloom as tl
from taskloom.errors import ConfigError, DataError
from taskloom.study.encoder_weights import located_weights


def test_weights_are_known_by_their_content(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder in (first, second):
        folder.mkdir()
        (folder / "w.pth").write_bytes(b"abc")
    encoder = {"name": "resnet50", "weights": "w.pth"}
    used, known = located_weights(encoder, first)
    assert used == {"name": "resnet50", "weights": str(first / "w.pth")}
    # SHA-256 of "abc", FIPS 180-2, appendix B.1
    assert known["weights"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert located_weights(encoder, second)[1] == known
    (second / "w.pth").write_bytes(b"abcd")
    assert located_weights(encoder, second)[1] != known
    assert located_weights({"name": "vgg5"}, first) == ({"name": "vgg5"}, {"name": "vgg5"})
    with pytest.raises(
        DataError, match=r"encoder\.weights: a file of weights expected at .*c\.pth, found no"
    ):
        located_weights({"name": "vgg16", "weights": "c.pth"}, first)


def test_unstandardised_images_are_pixels_of_0_to_1(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    for number, picture in enumerate(pictures):
        assert cv2.imwrite(str(tmp_path / f"{number}.png"), picture[..., ::-1])
    rows = [f"{number}.png,{number}" for number in range(12)]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,brightness", *rows]))
    tasks = tl.TaskSet(tl.Regression("brightness"))

    def load(**settings: object) -> tl.data.DataSplits:
        return tl.data.images(
            tmp_path / "labels.csv", tmp_path, tasks, size=8, stores=tmp_path / "stores", **settings
        )

    data = load(standardize=False)
    batch = data.train.__getitems__([0, 1])
    originals = pictures[batch.labels.values["brightness"].long().numpy()]
    torch.testing.assert_close(batch.inputs, torch.from_numpy(originals).permute(0, 3, 1, 2) / 255)
    assert data.preprocessing["standardization"] == {"mean": [0.0] * 3, "deviation": [1.0] * 3}
    encoder = tl.encoders.build("resnet18", (3, 8, 8), stem="small", width=0.125, prepare=True, size=16)
    assert encoder(batch.inputs).shape == (2, 64)
    with pytest.raises(DataError, match=r"`data\.standardize: false`"):
        tl.encoders.build("resnet18", (3, 8, 8), stem="small", width=0.125, prepare=True)(
            load().train.__getitems__([0, 1]).inputs
        )
    with pytest.raises(ConfigError, match=r"data\.standardize: true or false expected, found 'no'"):
        load(standardize="no")
