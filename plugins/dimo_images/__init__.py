"""Your own images as data: class-labelled folders, and arrays in a file."""
