"""Other distillers: SDTT, pairs of x_init and a sample (ReDi), and generators with noise at masks (IMDM)."""
