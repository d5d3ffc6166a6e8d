"""The store: layers and images on disk, containers, leases and garbage collection."""
