"""The dashboard tab of hfc_probe in TensorBoard: compare runs by frequency in the browser.

It reads the tensor summaries of plugin ``hfc`` and needs nothing but TensorBoard: neither torch
nor hfc_probe.
"""
