"""Predictions behind a web page: an ASGI app of a bundle, and a server for it (`taskloom serve`).

FastAPI and uvicorn come with the extra `serve`; without them a sentence says so when they are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from taskloom.errors import MissingExtraError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from taskloom.deploy import Bundle
    from taskloom.predict import PredictSettings

__all__ = ["check_extra", "web_app"]

MOST_UPLOAD_BYTES = 100 << 20


def check_extra() -> None:
    """Refuses to go on without the packages of the extra `serve`.

    Raises:
        MissingExtraError: One of them is not installed.
    """
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(str(error.name).partition(".")[0], "serve") from error


def web_app(
    bundle: Bundle | Path | str,
    settings: PredictSettings | None = None,
    *,
    prepared_as: str | None = None,
    most_upload_bytes: int = MOST_UPLOAD_BYTES,
    hosts: Sequence[str] = (),
    name: str | None = None,
) -> FastAPI:
    """Makes an ASGI app of a bundle: a page, and an interface in JSON; see docs/predict.md.

    `GET /` is the page, `GET /about` says what the bundle predicts and takes, `GET /health` that the app is
    there, `POST /predict` predicts. The network runs on one thread of its own, so that requests at the same
    time wait for each other and not the server for them.

    Args:
        bundle: A loaded bundle of images, of a table or of recordings, or its folder.
        settings: How faces are found, and the device; those of videos do not matter.
        prepared_as: Of the data sets of `data.combined`, the one that inputs are like.
        most_upload_bytes: How large a request may be.
        hosts: Names by which browsers may ask for it, besides addresses, `localhost` and this machine's own
            name; ("*",) lets every name and every page ask.
        name: What the page calls the bundle; the folder's name, or its cell, where None.

    Returns:
        An app to run (`uvicorn.run(app)`) or to mount (`other.mount("/faces", app)`).

    Raises:
        MissingExtraError: FastAPI is not installed.
        DataError: A bundle whose inputs `taskloom predict` cannot prepare.
        ConfigError: A setting that does not fit.

    Example:
        >>> from fastapi.testclient import TestClient
        >>> tasks = tl.TaskSet(tl.Binary("ill", ("no", "yes")))
        >>> model = tl.sharing.build("single_task", tl.encoders.mlp((2,), hidden=[3]), tasks)
        >>> how = {"reader": "table", "features": ["a", "b"], "packed_bits": None, "standardization": None}
        >>> bundle = tl.deploy.Bundle(model.eval(), tasks, how, {}, {"input_shape": [2]}, {})
        >>> client = TestClient(tl.deploy.web_app(bundle), base_url="http://localhost")
        >>> answer = client.post("/predict", json={"rows": [{"a": 1, "b": 2}, {"a": 3, "b": 4}]}).json()
        >>> [column["name"] for column in answer["columns"]], len(answer["rows"])
        (['row', 'ill', 'ill_confidence'], 2)
    """
    check_extra()
    from taskloom.serve.app import make_app

    return make_app(
        bundle,
        settings,
        prepared_as=prepared_as,
        most_upload_bytes=most_upload_bytes,
        hosts=hosts,
        name=name,
    )
