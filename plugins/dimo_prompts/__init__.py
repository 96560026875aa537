"""Where conditions come from: class labels and prompts."""
