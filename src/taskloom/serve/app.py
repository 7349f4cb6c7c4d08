"""The app: a page and an interface in JSON over one bundle."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.telemetry import TelemetryConfig
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from taskloom.deploy import Bundle, load_bundle
from taskloom.errors import DataError, TaskloomError
from taskloom.predict import PredictSettings
from taskloom.predict.outputs import HeldRows
from taskloom.predict.prepared import prepared_as as prepare_as
from taskloom.predict.readings import Readings
from taskloom.serve.about import about_bundle
from taskloom.serve.guard import Guard
from taskloom.serve.interface import answers, request_body
from taskloom.serve.page import make_page
from taskloom.serve.predictors import Predictor, make_predictor, with_rows_as_file
from taskloom.serve.uploads import Received, receive
from taskloom.version import __version__

MOST_ROWS, MOST_VALUES = 100_000, 5_000_000
"""Of an answer in JSON, which stands in memory with every class's probability; a CSV has no such limit."""
_MOST_WAITING = 64
_MOST_NOTES = 20
"""In a header, which clients do not take at any length."""
_NO_TELEMETRY: TelemetryConfig = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""Messages of errors quote what was uploaded: whatever the environment says, nothing is reported."""

Result = TypeVar("Result")


def make_app(
    bundle: Bundle | Path | str,
    settings: PredictSettings | None,
    *,
    prepared_as: str | None,
    most_upload_bytes: int,
    hosts: Sequence[str],
    name: str | None,
) -> FastAPI:
    """See `taskloom.serve.web_app`."""
    if not isinstance(bundle, Bundle):
        name = name or Path(bundle).absolute().name
        bundle = load_bundle(bundle)
    loaded = prepare_as(bundle, prepared_as)
    settings = settings or PredictSettings()
    predictor = make_predictor(loaded, settings)
    about = about_bundle(loaded, predictor, settings.device, name)
    about["most_upload_bytes"] = most_upload_bytes
    page, policy = make_page(about)
    worker = _Worker()
    app = FastAPI(
        title=f"taskloom: {about['name']}",
        version=__version__,
        docs_url=None,  # those pages load from elsewhere
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
    )
    app.state.about = about
    app.add_middleware(Guard, hosts=hosts, most_bytes=most_upload_bytes)
    app.add_exception_handler(AnyHTTPException, _refused)
    app.add_exception_handler(TaskloomError, _mistaken)
    app.add_exception_handler(RequestValidationError, _misspelt)
    app.add_exception_handler(Exception, _failed)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/about", summary="What the bundle predicts and takes")
    async def show_about() -> dict[str, Any]:
        return about

    @app.get("/health", summary="Whether the app is there")
    async def show_health() -> dict[str, str]:
        return {"status": "ok"}

    @app.post(
        "/predict",
        summary="Predict files or rows",
        response_model=None,
        responses=answers(predictor.readings),
        openapi_extra={"requestBody": request_body(predictor.kind)},
    )
    async def predict(request: Request, format: Literal["json", "csv"] = "json") -> Response:
        folder = Path(tempfile.mkdtemp(prefix="taskloom-serve-"))
        kept = False
        try:
            given = await receive(request, folder)
            received = await asyncio.to_thread(with_rows_as_file, given, folder, predictor.kind)
            if format == "json":
                content = await worker.run(lambda: _answer(predictor, received, str(about["device"])))
                return Response(content, media_type="application/json")
            table = folder / "predicted.csv"
            notes = await worker.run(lambda: _predicted(predictor, received, table))
            kept = True
            return _TableOfFolder(folder, table, notes)
        except ClientDisconnect:
            raise HTTPException(400, "the request broke off") from None
        finally:
            if not kept:
                shutil.rmtree(folder, ignore_errors=True)

    return app


def _predicted(predictor: Predictor, received: Received, table: Path | HeldRows) -> list[str]:
    """Predicts; what is wrong is said with the names that the files have for their sender."""
    try:
        return predictor.predict(received, table)
    except TaskloomError as error:
        raise DataError(received.in_words(str(error))) from error


def _answer(predictor: Predictor, received: Received, device: str) -> bytes:
    """Rows with what `taskloom predict` writes in its columns, and the probability of every class."""
    held = HeldRows(_most_rows(predictor.readings), "ask for the table, `predict?format=csv`")
    notes = _predicted(predictor, received, held)
    names = [column.name for column in held.columns]
    chances = [None if state is None else predictor.readings.chances(state) for state in held.states]
    answer = {
        "columns": [{"name": column.name, "kind": column.kind} for column in held.columns],
        "rows": [dict(zip(names, map(_plain, cells), strict=True)) for cells in held.rows],
        "probabilities": [None if each is None else _finite(each) for each in chances],
        "notes": notes,
        "device": device,
    }
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


def _most_rows(readings: Readings) -> int:
    """How many rows an answer in JSON has at most: fewer where there are hundreds of classes."""
    width = len(readings.columns) + sum(reading.width for reading in readings.by_task.values())
    return max(1, min(MOST_ROWS, MOST_VALUES // max(width, 1)))


def _finite(found: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    return {task: {name: _plain(chance) for name, chance in each.items()} for task, each in found.items()}


def _plain(cell: Any) -> Any:
    """A cell as JSON has it, which knows no infinity and nothing that is not a number."""
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


class _Worker:
    """The one thread on which a network runs: requests wait for each other, the server waits for none."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="taskloom-serve")
        self._waiting = 0

    async def run(self, function: Callable[[], Result]) -> Result:
        if self._waiting >= _MOST_WAITING:
            raise HTTPException(
                503, f"{_MOST_WAITING} requests are waiting already; ask again later", {"Retry-After": "5"}
            )
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        finally:
            self._waiting -= 1


class _TableOfFolder(FileResponse):
    """A table in a folder that is removed once it was sent, or could not be."""

    def __init__(self, folder: Path, table: Path, notes: Sequence[str]) -> None:
        said = {"Taskloom-Notes": json.dumps(notes[:_MOST_NOTES])} if notes else {}
        super().__init__(table, media_type="text/csv; charset=utf-8", filename="predicted.csv", headers=said)
        self.folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


def _mistaken(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)


def _misspelt(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    wrong = "; ".join(
        f"{'.'.join(str(part) for part in found['loc'][1:])}: {found['msg']}" for found in error.errors()
    )
    return JSONResponse({"error": wrong}, 422)


def _failed(_: Request, error: Exception) -> Response:  # noqa: ARG001  # the server's terminal has it
    return JSONResponse({"error": "the server failed; its terminal says why"}, 500)
