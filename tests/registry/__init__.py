"""Transfers from and to registries, proved with real ones and with real tools."""
