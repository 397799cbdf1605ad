"""The synchronous client. All modules but ``concurrency`` are generated from ``_async``."""
