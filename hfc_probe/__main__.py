"""``python -m hfc_probe``: the command line."""

from .cli.main import main

main(prog_name="python -m hfc_probe")
