// The pointwise work of one step on CPU, fused: what eager.py computes, operator for operator (docstrings are there).

#include "widest_vectors.h"  // before any header of torch

#include <torch/library.h>

#include "onlstm.h"
#include "rhn.h"

TORCH_LIBRARY(selfish, library) {
  library.def(
      "rhn_forward(Tensor product, Tensor addend, Tensor before, Tensor(a!) gates, Tensor(b!) after) -> ()",
      &rhn_forward);
  library.def("rhn_backward(Tensor(a!) grad, Tensor gates, Tensor before, Tensor(b!) grad_gates) -> ()", &rhn_backward);
  library.def(
      "onlstm_forward(Tensor product, Tensor(a!) gates, Tensor before, Tensor(b!) c, Tensor(c!) h, Tensor(d!) sums) -> "
      "()",
      &onlstm_forward);
  library.def(
      "onlstm_backward(Tensor grad_h, Tensor(a!) grad_c, Tensor gates, Tensor before, Tensor c, Tensor(b!) grad_gates) "
      "-> ()",
      &onlstm_backward);
}
