// The pointwise work of one step on CPU, fused: what eager.py computes, operator for operator (docstrings are there).

// Torch's vector functions take the widest vectors only where these say so, before any of its headers.
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define CPU_CAPABILITY AVX512
#define CPU_CAPABILITY_AVX512
#elif defined(__AVX2__) && defined(__FMA__)
#define CPU_CAPABILITY AVX2
#define CPU_CAPABILITY_AVX2
#endif
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
