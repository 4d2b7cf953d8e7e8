"""AWD-LSTM and QRNN language models (Merity et al. 2017 and 2018, arXiv 1708.02182 and 1803.08240).

Not built yet: this module holds no layers. The README says what it will hold.
"""
