"""The entry point. It imports nothing that may be missing: TensorBoard would not start."""

from __future__ import annotations

from typing import Any

from tensorboard.plugins import base_plugin

from .metadata import PLUGIN_NAME

# Steps kept of each array; TensorBoard's own rule is 10 (Python loader) or 100 (Rust loader).
STEPS_KEPT = 1000


class HfcLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Makes the plugin, and raises how many steps of its arrays TensorBoard keeps."""

    def fix_flags(self, flags: Any) -> None:
        """Keep :data:`STEPS_KEPT` steps, unless ``--samples_per_plugin`` says otherwise."""
        samples = getattr(flags, "samples_per_plugin", None)
        if samples is None:
            samples = flags.samples_per_plugin = {}
        samples.setdefault(PLUGIN_NAME, STEPS_KEPT)

    def load(self, context: Any) -> Any:
        """The plugin, or None if there is no data provider to read from."""
        if context.data_provider is None:
            return None
        from .plugin import HfcPlugin

        return HfcPlugin(context)
