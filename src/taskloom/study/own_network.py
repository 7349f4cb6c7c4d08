"""An encoder or heads of a cell's own, in place of the study's: what a paper varies beside the sharing.

    cells:
      - hard_sharing: {stages: 3}
        encoder: {dense: []}                         # the study's encoder without its dense layers
        head: {hidden: [500, 500], dropout: [0.4, 0]}

Settings that a cell does not give are the study's; another encoder (`name`) brings none of them along. The
single-task baselines have the study's own encoder, and its head unless `baseline` says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from taskloom.errors import ConfigError
from taskloom.study.locate import explain
from taskloom.study.yaml_lines import KeyPath, dotted

if TYPE_CHECKING:
    from taskloom.study.config import Study


def own_encoder(value: Any, study: Study, path: KeyPath) -> dict[str, Any] | None:
    """The encoder of a cell, name and all settings; None where it is the study's.

    Args:
        value: What the cell's `encoder` says.
        study: The study.
        path: Where it stands.

    Raises:
        ConfigError: An unknown encoder or setting.
    """
    from taskloom.study.config import check_encoder_settings  # which reads whole studies

    if value is None:
        return None
    _settings_by_name(value, study, path)
    usual = study.config.encoder.model_dump(mode="json")
    same = value.get("name", usual["name"]) == usual["name"]
    merged = {**usual, **value} if same else dict(value)
    check_encoder_settings(study.document, merged, path)
    return None if merged == usual else merged


def own_head(value: Any, study: Study, path: KeyPath) -> dict[str, Any] | None:
    """The heads' settings of a cell that differ from the defaults; None where they are the study's.

    Args:
        value: What the cell's `head` says.
        study: The study.
        path: Where it stands.

    Raises:
        ConfigError: An unknown setting, or one out of range.
    """
    from taskloom.study.config import HeadSettings

    if value is None:
        return None
    _settings_by_name(value, study, path)
    usual = study.config.head
    try:
        head = HeadSettings.model_validate({**usual.model_dump(), **value})
    except ValidationError as error:
        raise ConfigError(explain(error, HeadSettings, study.document, path)) from None
    return None if head == usual else head.model_dump(mode="json", exclude_defaults=True)


def _settings_by_name(value: Any, study: Study, path: KeyPath) -> None:
    if not isinstance(value, Mapping):
        raise ConfigError(study.document.say(path, f"{dotted(path)}: settings by name expected."))
