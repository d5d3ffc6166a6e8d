"""The operating system: files, processes, mounts and waiting."""
