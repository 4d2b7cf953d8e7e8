"""The Relational Memory Core of "Relational Recurrent Neural Networks" (Santoro et al. 2018, arXiv 1806.01822).

Not built yet: this module holds no layers. The README says what it will hold.
"""
