"""Questions about images and containers that need no mount."""
