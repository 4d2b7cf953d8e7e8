"""Gated layers of "Improving the Gating Mechanism of Recurrent Neural Networks" (Gu et al. 2019, arXiv 1910.09890).

`URLSTM` and `URGRU` stand where ``torch.nn.LSTM`` and ``torch.nn.GRU`` stand.
"""

from urlstm.cell import URGRUCell, URLSTMCell
from urlstm.layer import URGRU, URLSTM, make_layer

__all__ = ["URGRU", "URLSTM", "URGRUCell", "URLSTMCell", "make_layer"]
