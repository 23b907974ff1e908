"""An experiment framework for Segment Anything 2 on medical images."""

__version__ = "0.1.0"
