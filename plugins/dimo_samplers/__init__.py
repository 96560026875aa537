"""Multi-step samplers of masked diffusion teachers."""
