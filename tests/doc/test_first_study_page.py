"""The page on first studies: its options are the command's, its notebook runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests._measurements import measurements
from typer.main import get_command

from taskloom.cli import app
from taskloom.study import runner

PAGE = (Path(__file__).parents[2] / "docs" / "first_study.md").read_text(encoding="utf-8")


def test_every_option_is_listed() -> None:
    command: Any = get_command(app)
    options = {
        name for parameter in command.commands["init"].params for name in parameter.opts if name[:2] == "--"
    }
    rows = [line for line in PAGE.splitlines() if line.startswith("| `--")]
    assert set(re.findall(r"`(--[a-z-]+)", "\n".join(rows))) == options - {"--help"}


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    measurements().to_csv("measurements.csv", index=False)
    run_study = runner.run_study

    def short(study: Any, **options: Any) -> Any:
        few = {"epochs": 1, "stop": None}
        config = study.config.model_copy(
            update={"repeats": 3, "training": study.config.training.with_settings(**few)}
        )
        return run_study(type(study)(config, study.document, study.name), **options)

    monkeypatch.setattr("taskloom.study.run_study", short)
    code = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)[0]
    names: dict[str, Any] = {}
    exec(compile(code, "first_study.md", "exec"), names)
    frame = names["outcome"].to_frame()
    units = [["severity", "points"], ["relapse", ""], ["average relative gain, 2 tasks", "%"]]
    assert frame[["task", "unit"]].to_numpy().tolist() in (units, units[:2])  # as a baseline may be near 0
    assert names["outcome"].folder == Path("runs/measurements")
    assert "severity" in names["outcome"]._repr_html_()
