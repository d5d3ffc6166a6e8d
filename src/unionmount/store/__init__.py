"""Layers and images on disk, each layer once; containers; what may be removed."""
