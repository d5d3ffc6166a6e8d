"""Images on their way: registry, store, archive and layout."""
