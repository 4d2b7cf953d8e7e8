"""The Relational Memory Core of "Relational Recurrent Neural Networks" (Santoro et al. 2018, arXiv 1806.01822)."""

from rmc.cell import RelationalMemoryCell
from rmc.layer import RelationalMemory

__all__ = ["RelationalMemory", "RelationalMemoryCell"]
