"""Images as the OCI and docker specifications describe them; nothing of stores and mounts."""
