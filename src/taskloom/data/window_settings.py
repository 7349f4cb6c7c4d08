"""The `window` section of a study file: length, stride, label rules and policies, in samples or seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from taskloom.data.label_rules import LABEL_RULES, NULL_POLICIES, check_choice
from taskloom.data.recordings import RecordingStore
from taskloom.data.sources import check_settings
from taskloom.data.windows import WindowDataset
from taskloom.errors import ConfigError, did_you_mean
from taskloom.tasks import TaskSet

KNOWN = ("samples", "seconds", "stride", "stride_seconds", "label_rule", "null", "last", "short")


@dataclass(frozen=True)
class WindowSettings:
    """How windows are cut and labelled.

    Args:
        samples, seconds: Length, one of them.
        stride, stride_seconds: Step from one window to the next in samples or seconds; the length where
            neither is given.
        label_rule, null: For all tasks, or per task with `default` for the others; see `label_rules`.
        last, short: See `WindowDataset`.

    Example:
        >>> settings = WindowSettings.from_settings({"seconds": 2, "stride_seconds": 1}, {"null": "keep"})
        >>> settings.to_dict(rate_hz=30.0)["samples"], settings.to_dict(rate_hz=30.0)["stride"]
        (60, 30)
    """

    samples: int | None = None
    seconds: float | None = None
    stride: int | None = None
    stride_seconds: float | None = None
    label_rule: Any = "majority"
    null: Any = "keep"
    last: str = "drop"
    short: str = "error"

    @classmethod
    def from_settings(cls, given: Mapping[str, Any], usual: Mapping[str, Any]) -> Self:
        """Fills what is not given with what is usual for a reader.

        Raises:
            ConfigError: An unknown key, a length both in samples and seconds, or one that is not above 0.
        """
        if not isinstance(given, Mapping):
            raise ConfigError(f"data.window: settings such as `samples: 64` expected, found {given!r}.")
        check_settings("data.window", given, KNOWN)
        for one, other in (("samples", "seconds"), ("stride", "stride_seconds")):
            if one in given and other in given:
                raise ConfigError(f"data.window: `{one}` and `{other}` exclude each other.")
            for name in (one, other):
                if name in given and not _is_positive(given[name], whole=name == one):
                    number = "a whole number of samples" if name == one else "a number of seconds"
                    raise ConfigError(
                        f"data.window.{name}: {number} above 0 expected, found {given[name]!r}."
                    )
        # A length of one's own does not go with the usual stride.
        length_given = "samples" in given or "seconds" in given
        kept = {
            name: value
            for name, value in usual.items()
            if not (length_given and name in ("samples", "seconds", "stride", "stride_seconds"))
            and not (name == "stride" and "stride_seconds" in given)
        }
        return cls(**{**kept, **given})

    def length_samples(self, rate_hz: float) -> int:
        return self.samples if self.samples is not None else max(1, round((self.seconds or 0) * rate_hz))

    def stride_samples(self, rate_hz: float) -> int:
        if self.stride is not None:
            return self.stride
        if self.stride_seconds is not None:
            return max(1, round(self.stride_seconds * rate_hz))
        return self.length_samples(rate_hz)

    def null_of(self, task: str) -> str:
        """The NULL policy of a task."""
        return str(_of(self.null, task, "keep"))

    def build(
        self, store: RecordingStore, tasks: TaskSet, sources: Mapping[str, str], group_by: str
    ) -> WindowDataset:
        """Cuts the store into windows.

        Raises:
            DataError, ConfigError: See `WindowDataset`; a rule for a task that is not there.
        """
        for setting, value in (("label_rule", self.label_rule), ("null", self.null)):
            for name in value if isinstance(value, Mapping) else ():
                if name != "default" and name not in tasks:
                    raise ConfigError(
                        f"data.window.{setting}.{name}: not a task.{did_you_mean(str(name), tasks)} "
                        f"Tasks: {', '.join(tasks)}, or `default`."
                    )
        self._check_choices()
        return WindowDataset(
            store,
            tasks,
            window_samples=self.length_samples(store.rate_hz),
            stride_samples=self.stride_samples(store.rate_hz),
            label_rule={name: _of(self.label_rule, name, "majority") for name in tasks},
            null={name: _of(self.null, name, "keep") for name in tasks},
            last=self.last,  # type: ignore[arg-type]  # WindowDataset checks the choice
            short=self.short,  # type: ignore[arg-type]
            sources=sources,
            group_by=group_by,
        )

    def _check_choices(self) -> None:
        """Rules and policies by the setting's own path, which the rules themselves do not know."""
        for setting, value, known in (
            ("label_rule", self.label_rule, LABEL_RULES),
            ("null", self.null, NULL_POLICIES),
        ):
            by_task = value.items() if isinstance(value, Mapping) else [("", value)]
            for name, choice in by_task:
                check_choice(f"data.window.{setting}{f'.{name}' if name else ''}", choice, known)

    def to_dict(self, rate_hz: float) -> dict[str, Any]:
        """Plain values, lengths in samples."""
        return {
            "samples": self.length_samples(rate_hz),
            "stride": self.stride_samples(rate_hz),
            "label_rule": self.label_rule,
            "null": self.null,
            "last": self.last,
            "short": self.short,
        }


def _of(choice: Any, task: str, usual: str) -> Any:
    """The choice for all tasks, or the one for this task."""
    return choice.get(task, choice.get("default", usual)) if isinstance(choice, Mapping) else choice


def _is_positive(value: Any, *, whole: bool) -> bool:
    kinds = int if whole else int | float
    return isinstance(value, kinds) and not isinstance(value, bool) and value > 0
