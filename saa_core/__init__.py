"""Zero-shot anomaly segmentation: the method, with no network service, no database and no global state."""

__version__ = "0.1.0"
