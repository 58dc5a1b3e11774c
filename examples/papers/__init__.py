"""The papers' figures and tables, reproduced with hfc_probe's public interface.

python -m examples.papers hfc_figure3 --scale small

README.md says what a recipe is and how to add one.
"""

RECIPES = (
    "hfc_figure2", "hfc_figure3", "hfc_table1", "hfc_figure4", "hfc_figure5", "hfc_figure6",
    "hfc_optimizers", "hfc_architectures", "hfc_figure7", "hfc_table2", "hfc_defences",
    "hfc_section7", "hfc_section8", "apr_figure2", "apr_tables", "yin_heatmaps", "critical_band",
)  # fmt: skip
