// The pointwise work of one step on CPU, fused: what eager.py computes, operator for operator (docstrings are there).

#include "widest_vectors.h"  // before any header of torch

#include "onlstm.h"
#include "rhn.h"

STABLE_TORCH_LIBRARY(selfish, library) {
  define<&rhn_forward>(
      library, "rhn_forward(Tensor product, Tensor addend, Tensor before, Tensor(a!) gates, Tensor(b!) after) -> ()");
  define<&rhn_backward>(library,
                        "rhn_backward(Tensor(a!) grad, Tensor gates, Tensor before, Tensor(b!) grad_gates) -> ()");
  define<&onlstm_forward>(
      library,
      "onlstm_forward(Tensor product, Tensor(a!) gates, Tensor before, Tensor(b!) c, Tensor(c!) h, Tensor(d!) sums) -> "
      "()");
  define<&onlstm_backward>(
      library,
      "onlstm_backward(Tensor grad_h, Tensor(a!) grad_c, Tensor gates, Tensor before, Tensor c, Tensor(b!) grad_gates) "
      "-> ()");
}
