"""Sparse training of "Selfish Sparse RNN Training" (Liu et al. 2021, arXiv 2101.09048)."""

from selfish.mask_update import Rules as Rules
from selfish.masking import Masking as Masking
from selfish.onlstm import ONLSTM as ONLSTM
from selfish.rhn import RHN as RHN
from selfish.sparse_asgd import SparseASGD as SparseASGD
from selfish.sparse_asgd import SparseAverages as SparseAverages
