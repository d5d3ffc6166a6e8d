"""Transfers of images between registries, the store, archives and layouts."""
