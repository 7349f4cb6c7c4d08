"""Named plug-ins: a decorator and a dictionary, the same for encoders, sharing, losses and metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from taskloom.errors import ConfigError, did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Maps names to plug-ins; an unknown name lists the valid ones.

    Args:
        noun: What the entries are, in the singular, for error messages.

    Example:
        >>> colours: Registry[int] = Registry("colour")
        >>> @colours.register("red")
        ... def red() -> int: ...
        >>> list(colours)
        ['red']
    """

    def __init__(self, noun: str) -> None:
        self.noun = noun
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: files the decorated object under `name`. Raises ValueError if the name is taken."""

        def file(entry: T) -> T:
            if name in self._entries:
                raise ValueError(f"{self.noun} `{name}` is registered twice")
            self._entries[name] = entry
            return entry

        return file

    def __getitem__(self, name: str) -> T:
        if name not in self._entries:
            raise ConfigError(
                f"`{name}` is not a known {self.noun}.{did_you_mean(name, self._entries)} "
                f"Known: {', '.join(sorted(self._entries))}."
            )
        return self._entries[name]

    def name_of(self, entry: T) -> str:
        """The name under which an entry is filed; its own where it is not.

        Example:
            >>> colours: Registry[type] = Registry("colour")
            >>> _ = colours.register("whole")(int)
            >>> colours.name_of(int), colours.name_of(float)
            ('whole', 'float')
        """
        names = [name for name, filed in self._entries.items() if filed is entry]
        return names[0] if names else str(getattr(entry, "__name__", entry))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)
