"""Sparse training of "Selfish Sparse RNN Training" (Liu et al. 2021, arXiv 2101.09048).

Not built yet: this module holds no layers. The README says what it will hold.
"""
