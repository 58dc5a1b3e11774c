"""Images in pixel space, and how they are read from a loader."""
