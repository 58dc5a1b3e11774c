"""The command line: ``hfc-probe`` and its commands."""

from __future__ import annotations

import click

from ..version import __version__
from .audit import audit
from .demo import demo
from .detect import detect
from .report import report


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="hfc-probe")
def main() -> None:
    """See which image frequencies a vision model relies on."""


for command in (demo, audit, detect, report):
    main.add_command(command)
