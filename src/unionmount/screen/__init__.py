"""A screen that shows an image: its layers, their changes and its files."""
