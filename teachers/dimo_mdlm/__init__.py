"""MDLM: masked diffusion language models, as dimo teachers.

The network is the diffusion transformer of MDLM (Sahoo et al., arXiv 2406.07524), with its parameter names
and shapes; `dimo pretrain` makes small ones of any text, of characters or of a tokenizer's tokens.
"""
