"""What every command does alike: settings from a file, what is printed, and errors."""

from __future__ import annotations

import contextlib
import difflib
import io
import json
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ..ground.errors import InputError
from ..version import __version__

_HOME = re.compile(r"(?:^|(?<=[:=,]))~(?=/|$)")


class Command(click.Command):
    """A command that prints for people or as JSON, and whose errors are one sentence.

    The function returns what ``--json`` prints, or None on another rank than 0. Its prose goes to
    standard output, with ``--json`` to standard error.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, text in (
            ("--json", "Print one JSON object on standard output, and all else on standard error."),
            ("--quiet", "Print cautions and errors only."),
            ("--verbose", "Print how each number was measured, and the traceback of an error."),
        ):
            names = [name] if name == "--json" else [name, name[1:3]]
            option = click.Option(
                names, is_flag=True, expose_value=False, callback=_remember, help=text
            )
            self.params.append(option)

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """As click does; ``~`` is the home directory wherever a path may start."""
        with _one_sentence(context):
            rest = super().parse_args(context, arguments)
        context.params = {name: _with_home(value) for name, value in context.params.items()}
        return rest

    def invoke(self, context: click.Context) -> None:
        """Run the command; status 2 after bad input, 130 after an interruption."""
        stdout, said = sys.stdout, context.meta
        prose = stdout
        if said.get("json"):
            prose = sys.stderr
        if said.get("quiet"):
            prose = io.StringIO()
        with _one_sentence(context):
            with contextlib.redirect_stdout(prose):
                found = super().invoke(context)
                if found is not None and said.get("verbose"):
                    click.echo("".join(_how(found)))
            if found is None:
                return
            if said.get("quiet"):
                for line in found["cautions"]:
                    click.echo(f"Caution: {line}", err=True)
            if said.get("json"):
                text = json.dumps(found, allow_nan=False, ensure_ascii=False)
                click.echo(text, file=stdout)


class ConfigurableCommand(Command):
    """A command whose options may stand in a YAML file, as :func:`save_config` writes it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        option = click.Option(
            ["--config"],
            metavar="FILE",
            is_eager=True,
            expose_value=False,
            callback=_read_config,
            help=f"Options from a YAML file, such as the {self.name}.yaml beside a result; those "
            "on the command line win.",
        )
        self.params.insert(0, option)


def save_config(out: Path) -> None:
    """Write the options that were given into ``out``, for ``--config``."""
    import yaml

    from ..ground.files import write_atomically

    context = click.get_current_context()
    given = {}
    for key, option in _options(context).items():
        source = context.get_parameter_source(str(option.name))
        if source is not None and source.name in ("COMMANDLINE", "DEFAULT_MAP"):
            value = context.params[str(option.name)]
            kept = value if isinstance(value, (bool, int, float)) else str(value)
            given[key] = [str(one) for one in value] if isinstance(value, tuple) else kept
    name = context.command.name
    head = (
        f"# hfc-probe {__version__}; again: hfc-probe {name} --config {name}.yaml\n"
        "# Paths are as on the command line. Options that are not here have their defaults.\n"
    )
    text = head + yaml.safe_dump(given, sort_keys=False, allow_unicode=True)
    write_atomically(out / f"{name}.yaml", text.encode())


def shows_progress() -> bool:
    """Whether progress bars are wanted."""
    return not click.get_current_context().meta.get("quiet")


def is_helper() -> bool:
    """Whether torchrun started this process as another rank than 0."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and os.environ.get("RANK", "0") != "0"


def as_json(
    results: Sequence[Any] | Mapping[str, Any], out: Path, cautions: Iterable[str] = ()
) -> dict[str, Any]:
    """What ``--json`` prints of results: their numbers and words; arrays are in the files.

    Args:
        results: of one model, which are named by their measurements, or of several by names.
        out: the directory, or the one file, that they are in.
    """
    several = isinstance(results, Mapping)
    named: Mapping[str, Any] = (
        results if isinstance(results, Mapping) else {one.name: one for one in results}
    )
    found = {name: result.to_dict() for name, result in named.items()}
    left = ("arrays", "fields", "per_image")
    caveats = [
        f"{name}: {one}" if several else one
        for name, result in named.items()
        for one in result.caveats
    ]
    files = [out] if out.is_file() else out.iterdir()
    return {
        "version": __version__,
        "out": str(out),
        "files": sorted(file.name for file in files if file.is_file()),
        "cautions": list(dict.fromkeys([*cautions, *caveats])),
        "results": {
            name: {k: v for k, v in content.items() if k not in left}
            for name, content in found.items()
        },
    }


@contextlib.contextmanager
def _one_sentence(context: click.Context) -> Any:
    try:
        yield
    except InputError as error:
        if context.meta.get("verbose"):
            traceback.print_exc()
        if is_helper():
            return  # rank 0 says it; a status here would have torchrun stop it first
        click.echo(f"hfc-probe: error: {error}", err=True)
        context.exit(2)
    except KeyboardInterrupt:
        click.echo("hfc-probe: interrupted; what was finished is kept", err=True)
        context.exit(130)


def _remember(context: click.Context, option: click.Parameter, value: bool) -> None:
    context.meta[str(option.name)] = value


def _with_home(value: Any) -> Any:
    if isinstance(value, Path):
        return value.expanduser()
    if isinstance(value, tuple):
        return tuple(map(_with_home, value))
    if not isinstance(value, str):
        return value
    return _HOME.sub(lambda _: os.path.expanduser("~"), value)


def _options(context: click.Context) -> dict[str, click.Parameter]:
    """The options that a file may hold, by their long names."""
    options = [one for one in context.command.params if one.expose_value]
    return {option.opts[0].lstrip("-"): option for option in options}


def _read_config(context: click.Context, option: click.Parameter, value: str | None) -> None:
    """Make the values of a file the defaults of the command's options."""
    if value is None:
        return
    import yaml

    path, known = Path(value).expanduser(), _options(context)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        what = error.strerror if isinstance(error, OSError) else "which cannot be read as YAML"
        raise InputError(f"--config: expected a YAML file, got {path} ({what})") from error
    if not isinstance(content, Mapping):
        raise InputError(
            f"--config: expected options and their values in {path}, such as radii: 4,8, got "
            f"{type(content).__name__}"
        )
    found: dict[str, Any] = {}
    for key, given in content.items():
        name = str(key).replace("_", "-")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]}?" if close else "its --help lists them"
            raise InputError(
                f"--config: expected options of hfc-probe {context.command.name}, got {key!r} in "
                f"{path}; {hint}"
            )
        if given is not None:
            found[str(known[name].name)] = _as_option(name, known[name], given)
    context.default_map = {**(context.default_map or {}), **found}


def _as_option(name: str, option: click.Parameter, value: Any) -> Any:
    """A value as the option takes it: a list where it may be repeated, else joined by commas."""
    several = value if isinstance(value, list) else [value]
    if any(isinstance(one, (list, Mapping)) for one in several):
        raise InputError(f"--config: expected a value or a list for {name}, got {value!r}")
    if getattr(option, "multiple", False):
        return [str(one) for one in several]
    return ",".join(map(str, several)) if isinstance(value, list) else value


def _how(found: Mapping[str, Any]) -> Iterable[str]:
    """How the numbers were measured, for ``--verbose``."""
    for name, result in found.get("results", {}).items():
        said = {**result["settings"], **result["provenance"]}
        yield f"\n{name}: " + ", ".join(f"{k} {v}" for k, v in said.items() if k != "caveats")
