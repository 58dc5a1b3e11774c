"""The papers' figures and tables, reproduced with hfc_probe's public interface.

python -m examples.papers hfc_figure3 --scale small

README.md says what a recipe is and how to add one.
"""

RECIPES = ("hfc_figure2", "hfc_figure3", "hfc_table1", "hfc_figure7")
