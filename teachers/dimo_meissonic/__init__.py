"""The text-to-image teacher Meissonic (arXiv 2410.08261): 1024 pixels, 64 x 64 tokens of 8192 codes.

Its transformer is made of the blocks of Flux with the embedding and head of aMUSEd, both as diffusers builds
them; prompts are read by a CLIP text tower, as transformers builds it.
"""
