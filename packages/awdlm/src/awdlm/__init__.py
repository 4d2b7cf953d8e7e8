"""AWD-LSTM and QRNN language models (Merity et al. 2017 and 2018, arXiv 1708.02182 and 1803.08240)."""

from awdlm.model import AWDModel as AWDModel
from awdlm.qrnn import QRNN as QRNN
from awdlm.qrnn import QRNNLayer as QRNNLayer
from awdlm.qrnn import QRNNState as QRNNState
