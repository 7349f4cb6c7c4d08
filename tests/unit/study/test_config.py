"""Study files: what they hold, and the one sentence with file and line where they are wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from taskloom.errors import ConfigError
from taskloom.study.config import Study, check_study, load_study
from taskloom.study.overrides import apply_overrides
from taskloom.study.yaml_lines import parse_document

TEXT = """\
# faces.yaml
data:
  table: faces/metadata.csv
  images: faces/images
tasks:
  age:     {kind: regression, unit: years, range: [0, 116]}
  gender:  {kind: binary}
split:    {by: person, test: 0.2, validation: 0.1}
encoder:
  name: mlp
  hidden: [8, 4]
training: {epochs: 20, batch: 64, optimizer: {adam: {lr: 1e-3}}, stop: {patience: 5}}
repeats:  3
cells:
  - hard_sharing: {stages: 1}
"""


def read(text: str, *overrides: str) -> Study:
    return check_study(apply_overrides(parse_document(text, "faces.yaml"), overrides))


def message(text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text, *overrides)
    return str(caught.value)


class TestYaml:
    def test_plain_scalars_equal_those_of_yaml_1_2(self) -> None:
        # PyYAML, which follows YAML 1.1, reads five of these differently.
        text = "[1e-3, 1.5E+2, no, yes, on, 010, 1:30, 2011-05-01, true, ~, .5, -.inf, 0x1F, '1']"
        value = parse_document(f"a: {text}", "a.yaml").value["a"]
        expected = [
            0.001,
            150.0,
            "no",
            "yes",
            "on",
            10,
            "1:30",
            "2011-05-01",
            True,
            None,
            0.5,
            float("-inf"),
            31,
            "1",
        ]
        assert value == expected
        assert [type(item) for item in value] == [type(item) for item in expected]

    def test_lines_equal_those_found_by_reading_the_text(self) -> None:
        document = parse_document(TEXT, "faces.yaml")
        lines = TEXT.splitlines()
        for path, line in document.lines.items():
            if path and isinstance(path[-1], str):
                assert path[-1] in lines[line - 1], path

    def test_values_equal_pyyaml_where_both_schemas_agree(self) -> None:
        text = TEXT.replace("1e-3", "1.0e-3")
        assert parse_document(text, "faces.yaml").value == yaml.safe_load(text)

    def test_merged_mappings_keep_their_own_keys(self) -> None:
        text = "base: &base {a: 1, b: 2}\nmore:\n  <<: *base\n  b: 3\n"
        assert parse_document(text, "a.yaml").value["more"] == {"a": 1, "b": 3}

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("a: 1\nb: 2\na: 3", r"a.yaml:3: a stands twice, first in line 1"),
            ("a:\n  b: 1\n  b: 2", r"a.yaml:3: a.b stands twice, first in line 2"),
            ("a: [1, 2", r"a.yaml:1: this is not YAML"),
            ("a: 1\n\tb: 2", r"a.yaml:2: this is not YAML"),
            ("a: !!python/object/apply:os.system [ls]", r"a.yaml:1: this is not YAML"),
            ("- a\n- b", r"a.yaml: settings by name expected .* found a list"),
            ("", r"a.yaml: settings by name expected .* found nothing"),
            ("? [1, 2]\n: 3", r"a.yaml:1: a name expected"),
        ],
    )
    def test_what_is_not_a_study_file_is_one_sentence(self, text: str, expected: str) -> None:
        with pytest.raises(ConfigError, match=expected) as caught:
            parse_document(text, "a.yaml")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "study.yaml"
        if kind == "folder":
            path.mkdir()
        if kind == "binary":
            path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            load_study(path)


class TestErrors:
    def test_a_misspelt_key_names_the_nearest_right_one_with_file_and_line(self) -> None:
        assert message(TEXT.replace("  name: mlp", "  naem: mlp")).startswith(
            "faces.yaml:10: encoder.naem is not a setting. Did you mean `name`? Settings of encoder: name"
        )

    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("repeats:  3", "repeat:  3", "faces.yaml:13: repeat is not a setting. Did you mean `repeats`?"),
            (
                "hidden: [8",
                "hiden: [8",
                "faces.yaml:11: encoder.hiden is not a setting. Did you mean `hidden`?",
            ),
            (
                "name: mlp",
                "name: mpl",
                "faces.yaml:10: encoder.name: `mpl` is not a known encoder. Did you mean",
            ),
            (
                "epochs: 20",
                "epoch: 20",
                "faces.yaml:12: training.epoch is not a setting. Did you mean `epochs`?",
            ),
            (
                "lr: 1e-3",
                "lrr: 1e-3",
                "faces.yaml:12: training.optimizer.adam.lrr is not a setting. Did you mean",
            ),
            ("patience: 5", "patient: 5", "training.stop.patient is not a setting. Did you mean `patience`?"),
            (
                "lr: 1e-3",
                "lr: -1",
                "faces.yaml:12: training.optimizer.adam.lr should be greater than 0, found -1",
            ),
            (
                "epochs: 20",
                "epochs: many",
                "faces.yaml:12: training.epochs: a whole number expected, found 'many'",
            ),
            (
                "repeats:  3",
                "repeats:  0",
                "faces.yaml:13: repeats should be greater than or equal to 1, found 0",
            ),
            ("kind: binary", "kind: binry", "faces.yaml:7: tasks.gender.kind: one of binary"),
            ("  gender:  {kind: binary}", "  gender:  {}", "faces.yaml:7: tasks.gender.kind: one of"),
            (
                "  gender:  {kind: binary}",
                "  gender:  3",
                "faces.yaml:7: tasks.gender: settings by name (`{name: value}`) expected, found 3",
            ),
            ("test: 0.2", "redraw: maybe", "faces.yaml:8: split.redraw: true or false expected"),
            ("test: 0.2", "folds: 1", "faces.yaml:8: split.folds: a number of folds from 2"),
            ("test: 0.2", "fold: 1", "faces.yaml:8: split.fold"),
            ("test: 0.2", "redraw: true, seed: 3", "faces.yaml:8: split.seed"),
            (
                "  table: faces/metadata.csv\n  images: faces/images",
                "  folder: x",
                "faces.yaml:2: data: the name",
            ),
            ("  - hard_sharing: {stages: 1}", "  []", "faces.yaml:14: cells should have at least 1 item"),
        ],
    )
    def test_mistakes_are_located(self, old: str, new: str, expected: str) -> None:
        assert old in TEXT
        found = message(TEXT.replace(old, new))
        assert expected in found
        assert "\n" not in found

    def test_a_missing_section_is_named(self) -> None:
        assert message(TEXT[: TEXT.index("cells:")]) == "faces.yaml: cells is missing."

    def test_an_override_is_named_in_place_of_file_and_line(self) -> None:
        assert message(TEXT, "training.epochs=0").startswith("--set training.epochs should be")
        assert message(TEXT, "training.epoch=1").startswith("--set training.epoch is not")

    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("training.epochs", "--set training.epochs: key=value expected"),
            ("=3", "--set =3: key=value expected"),
            ("a..b=3", "--set a..b=3: key=value expected"),
            ("cells.1.name=x", "--set cells.1.name=x: cells is a list of 1"),
            ("cells.first.name=x", "a position from 0 to 0 expected, found `first`"),
            ("repeats.more=1", "--set repeats.more=1: repeats is 3 and has no settings below it"),
            ("repeats=[1", "--set repeats=[1: the value is not YAML"),
        ],
    )
    def test_an_override_that_leads_nowhere_is_named(self, override: str, expected: str) -> None:
        assert expected in message(TEXT, override)


class TestSettings:
    def test_overrides_win_over_the_file_and_make_sections(self) -> None:
        study = read(TEXT, "training.epochs=1", "cells.0.hard_sharing.stages=2", "head.hidden=[16]", "seed=7")
        assert study.config.training.epochs == 1
        assert study.config.cells[0]["hard_sharing"]["stages"] == 2
        assert study.config.head.hidden == (16,)
        assert study.config.training.batch == 64

    @pytest.mark.parametrize(
        ("section", "reader"),
        [
            ("  table: a.csv\n  images: faces", "images"),
            ("  table: a.csv", "table"),
            ("  reader: edf\n  table: a.csv", "edf"),
        ],
    )
    def test_the_reader_follows_from_the_section(self, section: str, reader: str) -> None:
        study = read(TEXT.replace("  table: faces/metadata.csv\n  images: faces/images", section))
        assert study.reader == reader
        assert "reader" not in study.data_settings

    def test_a_resolved_file_reads_as_the_same_study(self) -> None:
        study = read(TEXT)
        again = read(study.to_yaml())
        assert again.config == study.config

    def test_repeats_share_a_split_unless_redrawn(self) -> None:
        fixed, redrawn = read(TEXT), read(TEXT, "split.redraw=true", "seed=10")
        assert {str(fixed.split_of(repeat)) for repeat in range(3)} == {
            str(({"by": "person", "test": 0.2, "validation": 0.1}, 0))
        }
        assert [redrawn.split_of(repeat)[1] for repeat in range(3)] == [10, 11, 12]
        assert [redrawn.seed_of(repeat) for repeat in range(3)] == [10, 11, 12]

    def test_folds_come_round(self) -> None:
        study = read(TEXT, "split={by: person, folds: 2}")
        assert [study.split_of(repeat)[0]["fold"] for repeat in range(3)] == [0, 1, 0]
        assert {study.split_of(repeat)[1] for repeat in range(3)} == {0}
