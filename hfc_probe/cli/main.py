"""The command line: ``hfc-probe`` and its commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from ..version import __version__
from .audit import audit
from .demo import demo
from .detect import detect
from .reference import reference
from .report import report


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "--version", "-V", prog_name="hfc-probe")
@click.option(
    "--print-completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    is_eager=True,
    expose_value=False,
    callback=lambda context, _option, shell: _print_completion(context, shell),
    help='Print completion for a shell: eval "$(hfc-probe --print-completion bash)".',
)
def main() -> None:
    """See which image frequencies a vision model relies on."""


def _print_completion(context: click.Context, shell: str | None) -> None:
    if shell is None or context.resilient_parsing:
        return
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "hfc-probe", "_HFC_PROBE_COMPLETE").source())
    context.exit()


for command in (demo, audit, detect, report, reference):
    main.add_command(command)
