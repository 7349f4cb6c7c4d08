"""The command line: parse, build, call, print. What it does stands in the rooms it calls.

PyTorch takes seconds to import, so the commands import what they need when they run.

Exit codes: 0 all is well; 1 the study ran, but runs of it failed; 2 something is wrong with the input, said
in one sentence; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec

import typer
from rich.table import Table
from rich.text import Text

from taskloom.cli_data import DataFolder, Settings, fetch, inspect, load_splits, prepare, relate, stores_of
from taskloom.cli_explain import explain, own_test, print_cross
from taskloom.cli_export import export
from taskloom.cli_init import init
from taskloom.cli_predict import predict
from taskloom.cli_serve import serve
from taskloom.cli_simulate import COMMANDS as SIMULATE_COMMANDS
from taskloom.errors import DataError, TaskloomError
from taskloom.terminal import announce, console, print_dry_run, print_verdicts, say
from taskloom.version import __version__

if TYPE_CHECKING:
    from taskloom.data.batch import DataSplits
    from taskloom.deploy import Bundle
    from taskloom.study.single import Trained

app = typer.Typer(
    name="taskloom",
    help="One model, many tasks, holes in the labels, and evidence whether sharing helped.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
simulate_app = typer.Typer(
    help="Write made-up data in the native files of a real data set.", no_args_is_help=True
)
app.add_typer(simulate_app, name="simulate")

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="Study file (YAML).", show_default=False)]
OutFolder = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of the results; runs/<file> by default.")
]

P = ParamSpec("P")


def _guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A user's mistake becomes one sentence and exit code 2; Ctrl-C says how to continue."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except TaskloomError as error:
            if _debug:
                raise
            say(str(error), stderr=True)
            raise typer.Exit(2) from None
        except Exception as error:
            if _debug or isinstance(error, typer.Exit) or not _interrupted(error):
                raise
            raise _stopped() from None
        except KeyboardInterrupt:
            raise _stopped() from None

    return run


def _stopped() -> typer.Exit:
    say("Stopped; type the same command to continue.", stderr=True)
    return typer.Exit(130)


def _interrupted(error: BaseException | None) -> bool:
    """Whether an error followed from Ctrl-C: in the middle of an import it breaks what tidies up after it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


_debug = False


def _version(wanted: bool) -> None:
    if wanted:
        say(f"taskloom {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Print the traceback of an error.")] = False,
    code: Annotated[
        list[Path] | None,
        typer.Option(
            "--code", metavar="FILE.py", help="Your own code that a bundle names; before the command."
        ),
    ] = None,
) -> None:
    global _debug
    _debug = debug
    if code:
        _run_own(code)


@_guarded
def _run_own(files: list[Path]) -> None:
    from taskloom.own_code import run_code

    run_code(files)


@app.command()
@_guarded
def study(
    file: StudyFile,
    data: DataFolder = None,
    settings: Settings = None,
    out: OutFolder = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Runs at a time.")] = 1,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, list the runs, train nothing.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed runs again.")] = False,
) -> None:
    """Run what is missing of a study and write its report; the same command again continues."""
    from taskloom.study.config import load_study
    from taskloom.study.progress import ConsoleProgress
    from taskloom.study.runner import run_study, writable
    from taskloom.training import keep_freed_memory

    loaded = load_study(file, settings or ())
    folder = out or Path("runs") / loaded.name
    if dry_run:
        print_dry_run(loaded, file, folder, data)
        return
    keep_freed_memory()
    outcome = run_study(
        loaded,
        folder,
        ConsoleProgress(console()),
        data=data,
        jobs=jobs,
        retry_failed=retry_failed,
        announce=lambda plan: announce(file, loaded, plan),
    )
    with writable(folder):
        report_path = _render(folder)
    print_verdicts(outcome.summary)
    say(f"report   {report_path}")
    if outcome.failed:
        raise typer.Exit(1)


@app.command()
@_guarded
def train(
    file: StudyFile,
    cell: Annotated[
        str, typer.Option("--cell", metavar="NAME", help="Name of the cell; unknown names list all.")
    ] = "",
    data: DataFolder = None,
    settings: Settings = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="BUNDLE", help="The bundle; NAME.bundle by default.")
    ] = None,
) -> None:
    """Train one cell of a study once, on the split of its first repeat, and write a bundle."""
    from taskloom.study.config import load_study
    from taskloom.study.single import train_cell
    from taskloom.training import keep_freed_memory

    loaded = load_study(file, settings or ())
    keep_freed_memory()
    trained = train_cell(loaded, cell, data=data, stores=stores_of(loaded))
    path = _save(trained, out or Path(cell.replace(" ", "_").replace("/", "_")))
    console().print(trained.test.table())
    say(f"bundle   {path}")
    beside = [name for name, task in trained.network.tasks.items() if not task.judged]
    if beside and len(beside) < len(trained.network.tasks):
        say(f"left out {', '.join(beside)}: trained beside, not part of the bundle")


@app.command()
@_guarded
def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `train` wrote.", show_default=False)],
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|STORE", help="Study file (YAML), or a store of other faces.", show_default=False
        ),
    ],
    data: DataFolder = None,
    settings: Settings = None,
    part: Annotated[str, typer.Option("--part", help="train, validation or test.")] = "test",
    maps: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="TASK[:CLASS]=NAME",
            help="task=their name, task:their class=our class, feature=their column, where other data call "
            "it otherwise.",
        ),
    ] = None,
) -> None:
    """Evaluate a bundle on one part of a study file's data, or on the data of another data set."""
    from taskloom.data.image_store import ImageDataset
    from taskloom.data.table_dataset import TableDataset
    from taskloom.data.windows import WindowDataset
    from taskloom.deploy import load_bundle
    from taskloom.study.config import load_study
    from taskloom.study.cross_database import NameMap, other_store, other_study
    from taskloom.study.other_tables import feature_columns
    from taskloom.study.single import part_of
    from taskloom.training import evaluate as evaluate_network

    # The study first: files of its `code` may register what the bundle is built of.
    study = None if file.is_dir() else load_study(file, settings or ())
    loaded = load_bundle(bundle)
    names = NameMap.read(maps or (), loaded.tasks, feature_columns(loaded))
    if study is None:
        other = other_store(loaded, file, names)
        print_cross(loaded, other, evaluate_network(loaded.model, other.dataset))
        return
    splits = load_splits(study, data)
    same = _same_inputs(loaded, splits)
    unlike = maps or not same or _unlike_classes(loaded, splits) is not None
    named = isinstance(splits.test, TableDataset) and bool(feature_columns(loaded))
    if unlike and (same or named or isinstance(splits.test, ImageDataset | WindowDataset)):
        other = other_study(loaded, splits, part, names, file)
        print_cross(loaded, other, evaluate_network(loaded.model, other.dataset))
        return
    _check_same_preparation(bundle, loaded, splits)
    console().print(evaluate_network(loaded.model, part_of(splits, part)).table())


for _further in (init, predict, serve, export, explain, prepare, inspect, relate):
    app.command()(_guarded(_further))


@app.command()
@_guarded
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.", show_default=False)],
) -> None:
    """Compute the verdicts of a study folder anew and write its report."""
    from taskloom.study.runner import writable
    from taskloom.study.summary import write_summary

    with writable(folder):
        write_summary(folder)
        say(f"report   {_render(folder)}")


@app.command()
@_guarded
def doctor(
    stores: Annotated[Path, typer.Option("--stores", metavar="DIR", help="Prepared stores.")] = Path(
        "runs/stores"
    ),
) -> None:
    """Say what was found: Python, torch, devices, extras, prepared stores."""
    from taskloom.doctor import examine

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, found in examine(stores):
        table.add_row(Text(name), Text(found))  # names in brackets are not markup
    console().print(table)


app.command()(_guarded(fetch))
for _name, _command in SIMULATE_COMMANDS.items():
    simulate_app.command(_name)(_guarded(_command))


def main() -> None:
    """Entry point of the `taskloom` command."""
    app()


# -- helpers


def _save(trained: Trained, path: Path) -> Path:
    from taskloom.data.framing_found import framing_found
    from taskloom.deploy import save_bundle

    spec, splits = trained.spec, trained.splits
    return save_bundle(
        path,
        trained.network,
        input_shape=splits.train.input_shape,
        encoder=spec.encoder,
        sharing={"name": spec.cell.architecture, **spec.cell.settings},
        head=spec.head,
        preprocessing=splits.preprocessing,
        about={
            "cell": spec.cell.name,
            "data": splits.about,
            "run": spec.resolved,
            "test": own_test(trained.test),
            "framing": framing_found(splits.train),
        },
    )


def _same_inputs(bundle: Bundle, splits: DataSplits) -> bool:
    """Whether inputs mean to the network what they meant in its training."""
    return bool(json.loads(json.dumps(splits.preprocessing)) == bundle.preprocessing)


def _unlike_classes(bundle: Bundle, splits: DataSplits) -> str | None:
    """A task whose classes are not those of the data, or that the data lack; None where there is none."""
    for name, task in bundle.tasks.items():
        if name not in splits.tasks or splits.tasks[name].class_names != task.class_names:
            return name
    return None


def _check_same_preparation(path: Path, bundle: Bundle, splits: DataSplits) -> None:
    """Inputs and classes must mean to the network what they meant in its training."""
    if not _same_inputs(bundle, splits):
        raise DataError(
            f"{path}: the network was trained on data prepared in another way (channels, windows, or what "
            "was fitted on other training rows); evaluate it with the study file and data of its training."
        )


def _render(folder: Path) -> Path:
    from taskloom.report import render_report

    return render_report(folder)
