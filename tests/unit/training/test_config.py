"""Training settings: round trip, one name at a time, and messages that name what is wrong."""

from __future__ import annotations

import pytest

from taskloom.errors import ConfigError
from taskloom.training import TrainingConfig


def test_survives_json_and_yaml_like_dictionaries() -> None:
    config = TrainingConfig(
        epochs=3,
        optimizer={"sgd": {"lr": 0.1, "momentum": 0.9}},
        schedule={"plateau": {"factor": 0.5}},
        stop={},
    )
    assert TrainingConfig.model_validate_json(config.model_dump_json()) == config
    assert TrainingConfig(**config.model_dump()) == config
    assert config.model_dump()["optimizer"] == {
        "sgd": {"lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
    }


def test_a_bare_name_means_its_defaults() -> None:
    config = TrainingConfig(optimizer="adamw", schedule="cosine")
    assert config.optimizer.settings.model_dump()["weight_decay"] == 0.01
    assert config.schedule is not None
    assert config.schedule.name == "cosine"
    assert TrainingConfig(schedule="none").schedule is None
    assert TrainingConfig(optimizer={"sgd": None}).optimizer.name == "sgd"
    assert repr(config.optimizer).startswith("OptimizerConfig(adamw=")


def test_overrides_keep_the_rest() -> None:
    config = TrainingConfig(optimizer="sgd").with_settings(batch=7)
    assert (config.batch, config.optimizer.name) == (7, "sgd")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epohcs": 2}, r"training\.epohcs is not a setting\. Did you mean `epochs`\?"),
        (
            {"optimizer": {"adam": {"esp": 1}}},
            r"training\.optimizer\.adam\.esp is not a setting\. Did you mean `eps`",
        ),
        ({"optimizer": {"adma": {}}}, r"training\.optimizer\.adma is not a setting\. Did you mean `adam`\?"),
        (
            {"optimizer": {"adam": {}, "sgd": {}}},
            "exactly one of adam, adamw, sgd, rmsprop expected, found adam, sgd",
        ),
        ({"optimizer": {}}, "exactly one of adam, adamw, sgd, rmsprop expected, found none"),
        ({"optimizer": {"sgd": {"nesterov": True}}}, "nesterov needs a momentum above 0"),
        ({"optimizer": {"adam": {"lr": -1}}}, r"training\.optimizer\.adam\.lr: .*greater than 0, found -1"),
        ({"schedule": {"plateau": {"factr": 1}}}, r"schedule\.plateau\.factr .* Did you mean `factor`"),
        ({"stop": {"patience": 0}}, r"training\.stop\.patience: .*, found 0"),
        ({"epochs": 0}, r"training\.epochs: .* found 0"),
        ({"precision": "64"}, r"training\.precision: .* found '64'"),
        ({"device": "gpu"}, r"training\.device: .* found 'gpu'"),
        ({"batch": 1, "devices": 2}, "batch 1 is below the number of processes, devices 2"),
    ],
)
def test_refuses(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TrainingConfig().with_settings(**overrides)
