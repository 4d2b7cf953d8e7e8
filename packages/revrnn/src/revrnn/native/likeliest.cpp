// The likeliest words of rows of logits and their log-probabilities: the operator of translation/likeliest.py.
// Shapes: N rows, V logits of each, K words wanted.

#include "widest_vectors.h"  // before any header of torch

#include <ATen/cpu/vec/vec.h>

#include <cmath>

#include "tensors.h"

namespace {

template <typename S>
using Vec = at::vec::Vectorized<S>;

// The sum of exp(x - top).
template <typename S>
S sum_of_exponentials(const S* x, int64_t n, S top) {
  const Vec<S> shift(top);
  Vec<S> sums(0);
  const int64_t whole = n - n % Vec<S>::size();
  for (int64_t i = 0; i < whole; i += Vec<S>::size()) sums = sums + (Vec<S>::loadu(x + i) - shift).exp();
  S lanes[Vec<S>::size()], sum = 0;
  sums.store(lanes);
  for (const S lane : lanes) sum += lane;
  for (int64_t i = whole; i < n; ++i) sum += std::exp(x[i] - top);
  return sum;
}

// The largest of x.
template <typename S>
S maximum(const S* x, int64_t n) {
  S lanes[Vec<S>::size()], best = x[0];
  const int64_t whole = n - n % Vec<S>::size();
  if (whole) {
    Vec<S> top = Vec<S>::loadu(x);
    for (int64_t i = Vec<S>::size(); i < whole; i += Vec<S>::size()) top = at::vec::maximum(top, Vec<S>::loadu(x + i));
    top.store(lanes);
    best = *std::max_element(lanes, lanes + Vec<S>::size());
  }
  for (int64_t i = whole; i < n; ++i) best = std::max(best, x[i]);
  return best;
}

// The largest k of x, falling, and where they are; of equal ones the first come first.
template <typename S>
void largest(const S* x, int64_t n, int64_t k, S* values, int64_t* places) {
  constexpr int64_t kBlock = 64;
  int64_t found = 0;
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t last = std::min(first + kBlock, n);
    if (found == k && !(maximum(x + first, last - first) > values[k - 1])) continue;  // as in nearly all blocks
    for (int64_t i = first; i < last; ++i) {
      if (found == k && !(x[i] > values[k - 1])) continue;
      int64_t at = found < k ? found++ : k - 1;
      for (; at > 0 && x[i] > values[at - 1]; --at) values[at] = values[at - 1], places[at] = places[at - 1];
      values[at] = x[i], places[at] = i;
    }
  }
}

std::tuple<Tensor, Tensor> likeliest(const Tensor& logits, const Tensor& bias, int64_t count, int64_t barred,
                                     double never) {
  expect(logits.is_cpu() && logits.dim() == 2 && logits.is_contiguous(),
         "revrnn: expected logits [N, V], contiguous and on the CPU, got ", logits.sizes());
  const int64_t rows = logits.size(0), n = logits.size(1);
  expect(bias.is_contiguous() && bias.numel() == n && bias.scalar_type() == logits.scalar_type(),
         "revrnn: expected a bias [V] of the logits' type");
  expect(0 < count && count <= n && barred < n, "revrnn: ", count, " words of ", n, " are wanted, without ", barred);
  Tensor values = empty({rows, count}, logits.scalar_type());
  Tensor words = empty({rows, count}, ScalarType::Long);
  with_real(logits.scalar_type(), "revrnn::likeliest", [&]<typename T>() {
    const T *own = elements<const T>(logits), *add = elements<const T>(bias);
    T* value = elements<T>(values);
    int64_t* word = elements<int64_t>(words);
    parallel_for(0, rows, 8, [=](int64_t first, int64_t last) {
      std::vector<T> scratch(n);
      T* x = scratch.data();
      for (int64_t row = first; row < last; ++row) {
        for (int64_t i = 0; i < n; ++i) x[i] = own[row * n + i] + add[i];
        T* best = value + row * count;
        const T of_barred = barred < 0 ? T(0) : x[barred];
        if (barred >= 0) x[barred] = static_cast<T>(never);
        largest(x, n, count, best, word + row * count);
        if (barred >= 0) x[barred] = of_barred;
        const T top = barred < 0 ? best[0] : std::max(best[0], of_barred);
        const T total = top + std::log(sum_of_exponentials(x, n, top));
        for (int64_t k = 0; k < count; ++k) best[k] -= total;
      }
    });
  });
  return {values, words};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(revrnn, library) {
  define<&likeliest>(library,
                     "likeliest(Tensor logits, Tensor bias, int count, int barred, float never) -> (Tensor, Tensor)");
}
