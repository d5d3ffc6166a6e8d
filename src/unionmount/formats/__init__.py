"""Compressed streams and tar archives."""
