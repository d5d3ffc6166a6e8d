"""Mounts: FUSE operations, the daemon of a mount and its record."""
