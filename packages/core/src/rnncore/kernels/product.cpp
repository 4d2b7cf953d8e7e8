// The product of a recurrent step, few rows with one weight that was laid out for them: the operators of
// panel_linear.py. Shapes: B rows, K inputs, N outputs.

#include "widest_vectors.h"  // before any header of torch

#include "panels.h"

namespace {

constexpr int kParts = 4;  // vectors of outputs in a panel

// weight [N, K], of any strides, as [panel][k][part][lane].
Tensor panel_weight(const Tensor& weight) {
  expect(weight.is_cpu() && weight.dim() == 2, "rnncore: expected weight [N, K] on the CPU, got ", weight.sizes());
  const int64_t outputs = weight.size(0), inner = weight.size(1), by_output = weight.stride(0), by_k = weight.stride(1);
  Tensor packed;
  with_real(weight.scalar_type(), "rnncore::panel_weight", [&]<typename T>() {
    constexpr int64_t width = kParts * kLanes<T>;
    const int64_t panels = (outputs + width - 1) / width;
    packed = empty({panels, inner * width}, weight.scalar_type());
    const T* from = elements<const T>(weight);
    T* to = elements<T>(packed);
    for_panels(panels, inner * width, [=](int64_t p) {
      const int64_t first = p * width, n = std::min(width, outputs - first);
      T* panel = to + p * inner * width;
      if (n < width) std::fill_n(panel, inner * width, T(0));
      for (int64_t start = 0; start < inner; start += 16) {  // a line of the cache after the other
        const int64_t end = std::min<int64_t>(start + 16, inner);
        if (by_output == 1) {
          for (int64_t k = start; k < end; ++k) std::copy_n(from + first + k * by_k, n, panel + k * width);
        } else {
          for (int64_t j = 0; j < n; ++j) {
            const T* row = from + (first + j) * by_output;
            for (int64_t k = start; k < end; ++k) panel[k * width + j] = row[k * by_k];
          }
        }
      }
    });
  });
  return packed;
}

// Writes the product of x [B, K] and the transpose of a weight [N, K] from panel_weight to result [B, N].
void panel_product(const Tensor& x, const Tensor& packed, const Tensor& result) {
  expect(x.is_cpu() && x.dim() == 2 && x.is_contiguous() && x.scalar_type() == packed.scalar_type(),
         "rnncore: expected x [B, K], contiguous, on the CPU and of the weight's type, got ", x);
  const int64_t rows = x.size(0), inner = x.size(1), outputs = result.dim() == 2 ? result.size(1) : -1;
  expect(fits(result, x, {rows, outputs}) && result.is_contiguous(), "rnncore: expected a contiguous result [", rows,
         ", N] of the type of x, got ", result);
  with_real(x.scalar_type(), "rnncore::panel_product", [&]<typename T>() {
    constexpr int64_t width = kParts * kLanes<T>;
    expect(packed.is_contiguous() && packed.dim() == 2 && packed.size(1) == inner * width &&
               packed.size(0) == (outputs + width - 1) / width,
           "rnncore: the weight was laid out for other sizes than [", outputs, ", ", inner, "]");
    const T *left = elements<const T>(x), *panels = elements<const T>(packed);
    T* to = elements<T>(result);
    for_panels(packed.size(0), rows * packed.size(1), [=](int64_t p) {
      const int64_t first = p * width, n = std::min(width, outputs - first);
      alignas(64) T sums[kRows * width];
      for (int64_t start = 0; start < rows; start += kRows) {
        const int64_t count = std::min(kRows, rows - start);
        std::fill_n(sums, count * width, T(0));
        add_product<T, kParts>(sums, left + start * inner, count, panels + p * inner * width, inner);
        for (int64_t r = 0; r < count; ++r) std::copy_n(sums + r * width, n, to + (start + r) * outputs + first);
      }
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(rnncore, library) {
  define<&panel_weight>(library, "panel_weight(Tensor weight) -> Tensor");
  define<&panel_product>(library, "panel_product(Tensor x, Tensor packed, Tensor(a!) result) -> ()");
}
