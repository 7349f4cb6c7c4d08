"""Whose preparation new inputs get, where a network was trained on several data sets (`data.combined`)."""

from __future__ import annotations

import dataclasses

from taskloom.deploy import Bundle
from taskloom.errors import ConfigError, did_you_mean


def prepared_as(bundle: Bundle, data_set: str | None) -> Bundle:
    """The bundle with the preparation of one of the data sets that it was trained on.

    Each data set of `data.combined` is standardised on its own training rows; new inputs are prepared as
    those of one of them, which nobody but the user can know.

    Args:
        bundle: Any bundle.
        data_set: Name of the data set in `data.combined`; None where there is nothing to choose.

    Raises:
        ConfigError: Several preparations and no name, a name that is none of them, or a name where there is
            one preparation only.

    Example:
        >>> tasks = tl.TaskSet(tl.Binary("smile"))
        >>> model = tl.sharing.build("single_task", tl.encoders.mlp((2,), hidden=[3]), tasks)
        >>> sets = {"indoors": {"reader": "table"}, "outdoors": {"reader": "images"}}
        >>> bundle = Bundle(model, tasks, {"reader": "combined", "sets": sets}, {}, {}, {})
        >>> prepared_as(bundle, "outdoors").preprocessing
        {'reader': 'images'}
    """
    if bundle.preprocessing.get("reader") != "combined":
        if data_set is None:
            return bundle
        raise ConfigError(
            f"--prepared-as {data_set}: all inputs of this bundle were prepared in one way; leave it out."
        )
    sets = bundle.preprocessing["sets"]
    if data_set is None:
        raise ConfigError(
            f"this bundle was trained on several data sets, each prepared in its own way "
            f"({', '.join(sets)}); say with --prepared-as NAME which of them the new inputs are like."
        )
    if data_set not in sets:
        raise ConfigError(
            f"--prepared-as {data_set}: this bundle knows no such data set."
            f"{did_you_mean(data_set, list(sets))} It was trained on {', '.join(sets)}."
        )
    about = bundle.about.get("data", {}).get("sets", {}).get(data_set, {})
    framing = (bundle.about.get("framing") or {}).get("sets", {}).get(data_set)
    return dataclasses.replace(
        bundle, preprocessing=sets[data_set], about={**bundle.about, "data": about, "framing": framing}
    )
