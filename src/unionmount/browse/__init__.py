"""Queries of images and containers that need no mount."""
