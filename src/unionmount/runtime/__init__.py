"""The execution parameters of images, as the input of an OCI runtime."""
