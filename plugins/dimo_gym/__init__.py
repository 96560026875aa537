"""Teachers whose joint distribution is known exactly, and every objective measured against it."""
