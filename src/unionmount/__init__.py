"""Mount a container image as a directory."""
