"""`taskloom serve`: its options, and what it prints."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Annotated

import typer

from taskloom.cli_predict import Batch, BundleFolder, Choose, DetectorName, Device, Margin, PreparedAs
from taskloom.terminal import say

if TYPE_CHECKING:
    from fastapi import FastAPI


def serve(
    bundle: BundleFolder,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="0.0.0.0 lets everybody in the network in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="N", help="0 for any that is free.")
    ] = 8000,
    device: Device = "auto",
    detector: DetectorName = None,
    margin: Margin = None,
    choose: Choose = "all",
    detect_side: Annotated[
        int | None,
        typer.Option(
            "--detect-side",
            metavar="PIXELS",
            help="Longer side of the picture in which faces are looked for; 800 by default.",
        ),
    ] = None,
    batch: Batch = 32,
    data_set: PreparedAs = None,
    max_upload: Annotated[
        float, typer.Option("--max-upload", min=0.01, metavar="MB", help="How large a request may be.")
    ] = 100.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A name by which browsers may ask for the page besides addresses, localhost and this "
            "machine's; * for any.",
        ),
    ] = None,
) -> None:
    """Put a bundle behind a web page and an interface in JSON, on this machine; Ctrl-C ends it."""
    from taskloom.serve import check_extra, web_app

    check_extra()
    from taskloom.predict import PredictSettings
    from taskloom.serve.server import address_of, open_socket, run

    settings = PredictSettings(
        detector=detector, margin=margin, choose=choose, detect_side=detect_side, batch=batch, device=device
    )
    with open_socket(host, port) as taken:
        app = web_app(
            bundle,
            settings,
            prepared_as=data_set,
            most_upload_bytes=round(max_upload * 2**20),
            hosts=allow_host or (),
        )
        _print(app, host)
        say(f"page     {address_of(taken)}   Ctrl-C ends it")
        run(app, taken)
    say("Stopped.")


def _print(app: FastAPI, host: str) -> None:
    about = app.state.about
    say(f"{about['name']}  {', '.join(task['name'] for task in about['tasks'])}   device {about['device']}")
    for note in about["notes"]:
        say(f"note     {note}")
    if not _is_loopback(host):
        say("note     everybody in this network can open it: there is no password, and nothing is encrypted")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
