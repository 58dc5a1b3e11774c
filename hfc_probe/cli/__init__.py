"""The command line: ``hfc-probe``."""

from .main import main

__all__ = ["main"]
