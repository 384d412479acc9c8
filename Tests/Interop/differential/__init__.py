"""A differential fuzzer: drawn configurations, computed by nibble and by the libraries it has to agree with.

docs/differential.md says what is drawn and how a case is run again.
"""
import importlib

AREAS = ("forward", "quantize", "merge", "attach", "combine", "train", "generate", "gguf", "calibrate")


def area(name):
    """The function that runs a case of an area."""
    return importlib.import_module(f".{name}", __name__).run
