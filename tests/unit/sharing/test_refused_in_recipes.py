"""What a study file asks of sharing and cannot have: `--dry-run` says so in one sentence, by file, line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from taskloom.cli import app

RECIPE = """data: {{table: table.csv, features: [x, y]}}
tasks:
  a: {{kind: binary}}
  b: {{kind: binary}}
  c: {{kind: binary}}
split: {{by: rows, test: 0.25, validation: 0.25}}
encoder: {{name: mlp, hidden: [6, 5]}}
training: {{epochs: 1, batch: 16, optimizer: {{adam: {{lr: 1.0e-3}}}}}}
repeats: 1
cells:
  - {cell}
"""


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("plan: {partition: {dense_9: together}}", "stage 'dense_9' does not exist. Did you mean `dense_1`?"),
        ("plan: {partition: [[[a, z], [b, c]], alone]}", "stage 1: `z` is not a task. Tasks: a, b, c."),
        (
            "plan: {partition: [[[a, b]], alone]}",
            "each task stands in exactly one group; `c` stands in none.",
        ),
        ("plan: {partition: [[[a, b], [b, c]], alone]}", "exactly one group; `b` stands 2 times."),
        (
            "plan: {partition: [alone, together]}",
            "which an earlier stage has parted, so they feed it different",
        ),
        ("plan: {partition: [together, alone], mixing: {after: [1]}}", "every task needs a copy of its own"),
        ("plan: {partition: [together, alone], tie: {l2: {weight: 1, stages: [1]}}}", "a tie needs two."),
        (
            "hard_sharing: {stages: 5}",
            "a whole number from 0 to 2 (the encoder has 2 stages) expected, found 5.",
        ),
        ("cross_stitch: {after: [dense_5]}", "stage 'dense_5' does not exist."),
        ("soft_sharing: {tie: l2, weight: {dense_0: -1}}", "must be a number of at least 0, found -1."),
        ("sluice: {orthogonality: -1}", "sluice.orthogonality: a number of at least 0 expected, found -1."),
        ("mtan: {stages: [9]}", "stage 9 does not exist. Stages: 1 to 2 (dense_0, dense_1)."),
        ("hard_sharing: {stages: 1, read_out: {z: 1}}", "read_out: `z` is not a task. Tasks: a, b, c."),
    ],
)
def test_one_sentence_with_file_and_line(
    cell: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{row / 40},{row % 7},{row % 2},{row // 2 % 2},{row // 4 % 2}" for row in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["x,y,a,b,c", *rows, ""]))
    recipe = tmp_path / "study.yaml"
    recipe.write_text(RECIPE.format(cell=cell))
    result = CliRunner().invoke(app, ["study", str(recipe), "--dry-run"])
    output = " ".join(result.output.split())
    assert result.exit_code == 2
    # Line of the cell, and its place: the cell, or the very setting where the sentence begins with its name.
    assert re.search(r"study\.yaml:11: cells\[0\](\.\w+)*: ", output)
    assert said in output
    assert "Traceback" not in output
