"""Where conditions come from: class labels."""
