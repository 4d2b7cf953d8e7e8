// The recurrences on CPU with the loop over time inside: what eager.py computes, operator for operator (docstrings are
// there).

#include "widest_vectors.h"  // before any header of torch

#include <torch/library.h>

#include "loop.h"

namespace {

// Calls body with a value of the type of the unit that is named.
template <typename Body>
auto with_unit(c10::string_view name, Body body) {
  if (name == "refine") return body(Refine<false>());
  if (name == "cumax-refine") return body(Refine<true>());
  if (name == "ordered") return body(Ordered());
  TORCH_CHECK(name == "refine-gru", "urlstm: no unit ", name);
  return body(RefineGRU());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run_forward(c10::string_view unit, const Tensor& gates,
                                                       const Tensor& weight, bool packed, const Tensor& bias,
                                                       const Tensor& h0, const Tensor& c0, at::IntArrayRef rows,
                                                       bool reverse) {
  const at::AutoDispatchBelowADInplaceOrView no_gradient;
  const FlushDenormals flush;
  return with_unit(unit, [&](auto kind) {
    return forward<decltype(kind)>(gates, weight, packed, bias, h0, c0, rows, reverse);
  });
}

std::tuple<Tensor, Tensor, Tensor> run_backward(c10::string_view unit, const Tensor& grad, const Tensor& grad_h,
                                                const Tensor& grad_c, const Tensor& gates, const Tensor& cells,
                                                const Tensor& before, const Tensor& weight, bool packed,
                                                at::IntArrayRef rows, bool reverse) {
  const at::AutoDispatchBelowADInplaceOrView no_gradient;
  const FlushDenormals flush;
  return with_unit(unit, [&](auto kind) {
    return backward<decltype(kind)>(grad, grad_h, grad_c, gates, cells, before, weight, packed, rows, reverse);
  });
}

}  // namespace

TORCH_LIBRARY(urlstm, library) {
  library.def(
      "forward(str unit, Tensor(a!) gates, Tensor weight, bool packed, Tensor bias, Tensor h0, Tensor c0, int[] rows, "
      "bool reverse) -> (Tensor, Tensor, Tensor, Tensor)",
      &run_forward);
  library.def(
      "backward(str unit, Tensor grad, Tensor grad_h, Tensor grad_c, Tensor gates, Tensor cells, Tensor before, "
      "Tensor weight, bool packed, int[] rows, bool reverse) -> (Tensor, Tensor, Tensor)",
      &run_backward);
}
