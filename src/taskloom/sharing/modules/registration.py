"""Files networks that are no filling of the plan under the same registry as those that are."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from taskloom.encoders import Encoder
from taskloom.errors import ConfigError, did_you_mean
from taskloom.sharing.architectures import ARCHITECTURES
from taskloom.sharing.checks import check_encoder
from taskloom.sharing.heads import HeadChoice
from taskloom.sharing.network import MultiTaskNetwork
from taskloom.tasks import TaskSet


class ModuleArchitecture:
    """A way of sharing that is a module of its own; stands in `ARCHITECTURES` beside `PlanArchitecture`.

    Args:
        name: Its registered name.
        function: `(encoder, tasks, *, <settings>, copies, head) -> MultiTaskNetwork`; `copies` and `head` are
            the last two parameters.
    """

    def __init__(self, name: str, function: Callable[..., MultiTaskNetwork]) -> None:
        self.name, self._function = name, function
        self.__doc__ = function.__doc__
        self.__wrapped__ = function  # so that inspect, doctest and the study's cells see the function

    @property
    def settings(self) -> tuple[str, ...]:
        """Names of the settings, as study files write them; `copies` is the last."""
        return tuple(inspect.signature(self._function).parameters)[2:-1]

    def __call__(
        self, encoder: Encoder, tasks: TaskSet, *, head: HeadChoice = None, **settings: Any
    ) -> MultiTaskNetwork:
        """Builds the network.

        Raises:
            ConfigError: An unknown, missing or unfit setting.
        """
        for name in settings:
            if name not in self.settings:
                raise ConfigError(
                    f"{self.name}.{name} is not a setting.{did_you_mean(name, self.settings)} "
                    f"Settings of {self.name}: {', '.join(self.settings)}."
                )
        for name, parameter in inspect.signature(self._function).parameters.items():
            if name in self.settings and parameter.default is parameter.empty and name not in settings:
                raise ConfigError(f"{self.name}.{name} is missing; give it a value.")
        check_encoder(encoder)
        network: object = self._function(encoder, tasks, head=head, **settings)
        if not isinstance(network, MultiTaskNetwork):
            raise ConfigError(
                f"{self.name} gave {type(network).__name__}; a way of sharing that is registered as a module "
                "returns a taskloom.sharing.MultiTaskNetwork."
            )
        return network

    def __repr__(self) -> str:
        return f"ModuleArchitecture({self.name}: {', '.join(self.settings)})"


def register_module(name: str) -> Callable[[Callable[..., MultiTaskNetwork]], ModuleArchitecture]:
    """Decorator: files a function `(encoder, tasks, *, <settings>, copies, head) -> network`.

    Args:
        name: What study files call it.
    """

    def file(function: Callable[..., MultiTaskNetwork]) -> ModuleArchitecture:
        architecture = ModuleArchitecture(name, function)
        ARCHITECTURES.register(name)(architecture)
        return architecture

    return file
