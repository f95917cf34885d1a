"""Measures of the mesh; ratios are taken within one run."""
