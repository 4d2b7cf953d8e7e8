"""Gated layers of "Improving the Gating Mechanism of Recurrent Neural Networks" (Gu et al. 2019, arXiv 1910.09890).

Not built yet: this module holds no layers. The README says what it will hold.
"""
