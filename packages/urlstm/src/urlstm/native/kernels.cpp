// The recurrences on CPU with the loop over time inside: what eager.py computes, operator for operator (docstrings are
// there).

#include "widest_vectors.h"  // before any header of torch

#include "loop.h"

namespace {

// Calls body with a value of the type of the unit of that number, in the order of kernels.py's UNITS.
template <typename Body>
auto with_unit(int64_t unit, Body body) {
  if (unit == 0) return body(Refine<false>());
  if (unit == 1) return body(Refine<true>());
  if (unit == 2) return body(Ordered());
  expect(unit == 3, "urlstm: no unit ", unit);
  return body(RefineGRU());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> run_forward(int64_t unit, const Tensor& gates, const Tensor& weight,
                                                       bool packed, const Tensor& bias, const Tensor& h0,
                                                       const Tensor& c0, const std::vector<int64_t>& rows,
                                                       bool reverse) {
  const FlushDenormals flush;
  return with_unit(
      unit, [&](auto kind) { return forward<decltype(kind)>(gates, weight, packed, bias, h0, c0, rows, reverse); });
}

std::tuple<Tensor, Tensor, Tensor> run_backward(int64_t unit, const Tensor& grad, const Tensor& grad_h,
                                                const Tensor& grad_c, const Tensor& gates, const Tensor& cells,
                                                const Tensor& before, const Tensor& weight, bool packed,
                                                const std::vector<int64_t>& rows, bool reverse) {
  const FlushDenormals flush;
  return with_unit(unit, [&](auto kind) {
    return backward<decltype(kind)>(grad, grad_h, grad_c, gates, cells, before, weight, packed, rows, reverse);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY(urlstm, library) {
  define<&run_forward>(
      library,
      "forward(int unit, Tensor(a!) gates, Tensor weight, bool packed, Tensor bias, Tensor h0, Tensor c0, int[] rows, "
      "bool reverse) -> (Tensor, Tensor, Tensor, Tensor)");
  define<&run_backward>(
      library,
      "backward(int unit, Tensor grad, Tensor grad_h, Tensor grad_c, Tensor gates, Tensor cells, Tensor before, "
      "Tensor weight, bool packed, int[] rows, bool reverse) -> (Tensor, Tensor, Tensor)");
}
