"""Knowledge Integration Networks for recognising human actions in video."""

__version__ = "0.1.0"
