"""Di4C (arXiv 2410.08709): a student that is a mixture of products over sites, for a few steps."""
