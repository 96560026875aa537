"""MaskGIT: class-conditional masked image modelling, as a dimo teacher.

The network is that of MaskGIT-pytorch v1.0 (valeoai), the teacher of the Di[M]O paper, with its
parameter names and shapes. A small one, trained by this project on real handwriting, is part of the
package and is used when no checkpoint is named.
"""
