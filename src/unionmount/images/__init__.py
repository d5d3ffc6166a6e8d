"""Images as the OCI and docker specifications define them, without stores and mounts."""
