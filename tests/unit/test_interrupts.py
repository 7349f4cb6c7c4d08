"""Ctrl-C whose tidying up fails, and values of `--set` that are no YAML."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import taskloom.cli
from taskloom.errors import ConfigError
from taskloom.study.overrides import settings_of


def call(*arguments: str) -> tuple[int, str, BaseException | None]:
    result = CliRunner().invoke(taskloom.cli.app, list(arguments))
    return result.exit_code, result.stderr, result.exception


@pytest.mark.parametrize("first", [KeyboardInterrupt, ValueError])
def test_an_error_that_follows_from_ctrl_c_is_told_as_ctrl_c(
    monkeypatch: pytest.MonkeyPatch, first: type[BaseException]
) -> None:
    """In the middle of an import it leaves half a module behind, on which what tidies up stumbles."""

    def interrupted(*_: object, **__: object) -> None:
        try:
            raise first
        finally:
            raise AttributeError("module 'sympy' has no attribute 'printing'")

    monkeypatch.setattr("taskloom.study.config.load_study", interrupted)
    code, told, error = call("study", "people.yaml")
    if first is KeyboardInterrupt:
        assert (code, told) == (130, "Stopped; type the same command to continue.\n")
    else:
        assert isinstance(error, AttributeError)


def test_a_text_that_yaml_would_not_take_is_told_with_its_quotation_marks() -> None:
    with pytest.raises(ConfigError) as told:
        settings_of(["data.files=*.csv"])
    assert str(told.value).endswith("""stands in two pairs of quotation marks: --set 'data.files="*.csv"'.""")
    assert settings_of(['data.files="*.csv"']) == {
        "data": {"files": "*.csv"}
    }  # what a shell makes of the advice
    with pytest.raises(ConfigError, match=r"the value is not YAML\.$"):
        settings_of(["repeats=[1"])
