"""A toy teacher for dimo whose joint distribution is known exactly."""
