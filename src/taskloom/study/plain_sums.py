"""Every way of balancing beside the plain sum of the losses: what weighing or aggregating them did by itself.

The matrix of verdicts compares every cell with training alone, which says what sharing and balancing did
together. Cells that differ in nothing but `balancing` are compared here with the one among them that sums
the losses as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from taskloom.study.verdicts import Comparison, Groups
from taskloom.study.written_out import written_out

_PLAIN: tuple[Mapping[str, Any], ...] = ({"weighted_sum": {}}, {"mean": {}}, {"gradient_sum": {}})
"""What counts as a plain sum, the first that is there; a cell without `balancing` is the first of them."""


def plain_sums(facts: Mapping[str, Any], done: Groups) -> list[Comparison]:
    """Cells that differ in the balancing alone, each compared with the one that sums its losses as they are.

    Args:
        facts: See `study_facts` of `taskloom.study.prepare`.
        done: The finished runs.
    """
    trained = {cell["id"]: done.get((cell["id"], cell["tasks"][0]), []) for cell in facts["cells"]}
    resolved = [(cell, runs[0].resolved["cell"]) for cell, runs in trained.items() if runs]
    # A cell that was not trained, as it is the same network as another, is found there: by either wording.
    resolved += [(of, cell) for cell, of in facts.get("repeated", []) if trained.get(of)]
    alike: dict[str, dict[str, Mapping[str, Any]]] = {}
    for cell, found in resolved:
        # Defaults are written out: `stages: 4` and `stages: 4, from: input` differ in nothing.
        settings = {key: value for key, value in written_out(found).items() if key != "balancing"}
        balancing = {name: given or {} for name, given in (found.get("balancing") or _PLAIN[0]).items()}
        alike.setdefault(json.dumps(settings, sort_keys=True, default=str), {}).setdefault(cell, balancing)
    over: dict[str, dict[str, None]] = {}
    for cells in alike.values():
        plain = next((cell for form in _PLAIN for cell, given in cells.items() if given == form), None)
        if plain is not None:
            over.setdefault(plain, {}).update(dict.fromkeys(cell for cell in cells if cell != plain))
    return [Comparison(plain, tuple(others)) for plain, others in over.items() if others]
