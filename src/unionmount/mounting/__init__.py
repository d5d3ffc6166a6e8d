"""Serving a mount: FUSE operations, the daemon and its records."""
