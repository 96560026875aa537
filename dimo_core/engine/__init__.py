"""The loop, and what a trained part keeps."""
