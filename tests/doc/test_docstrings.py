"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch

import taskloom


def _module_names() -> Iterator[str]:
    for info in pkgutil.walk_packages(taskloom.__path__, "taskloom."):
        if not info.name.endswith("__main__"):
            yield info.name


def _examples(module: ModuleType) -> list[doctest.DocTest]:
    given = {"tl": taskloom, "torch": torch, "np": np}
    given |= {name: getattr(taskloom, name) for name in taskloom.__all__}
    found = doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=given)
    return [example for example in found if example.examples]


@pytest.mark.parametrize("name", sorted(_module_names()))
def test_examples_print_what_they_say(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("docstrings"))
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, verbose=False)
    output: list[str] = []
    for example in _examples(importlib.import_module(name)):
        runner.run(example, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)
