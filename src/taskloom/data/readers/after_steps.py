"""What readers of recordings with signal steps have in common."""

from __future__ import annotations

from taskloom.data.signals import SignalSteps


class AfterSteps:
    """Base of readers whose recordings go through signal steps before they are stored.

    Attributes:
        steps: What is done to every recording.
        native_rate_hz: Samples per second in the files.
    """

    steps: SignalSteps
    native_rate_hz: float
    _channels: tuple[str, ...]

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels after the steps."""
        return self.steps.channels_after(self._channels, self.native_rate_hz)

    @property
    def rate_hz(self) -> float:
        """Samples per second after the steps."""
        return self.steps.rate_after(self.native_rate_hz)
