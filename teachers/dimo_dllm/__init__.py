"""Large masked diffusion language models as teachers: LLaDA and Dream."""
