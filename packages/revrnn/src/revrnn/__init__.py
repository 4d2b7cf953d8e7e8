"""Reversible recurrent neural networks (MacKay, Vicol, Ba, Grosse, NeurIPS 2018, arXiv 1810.10999)."""

from revrnn.cell import RevGRUCell, RevLSTMCell
from revrnn.layer import RevGRU, RevLSTM

__all__ = ["RevGRU", "RevGRUCell", "RevLSTM", "RevLSTMCell"]
