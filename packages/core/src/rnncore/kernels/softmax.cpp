// Softmax cross entropy of rows of logits and its gradient, in one pass over memory: the operators of softmax.py.
// Shapes: N rows, V logits of each.

#include "widest_vectors.h"  // before any header of torch

#include <ATen/cpu/vec/vec.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <cmath>

#include "tensors.h"

namespace {

template <typename T>
using Vec = at::vec::Vectorized<T>;

constexpr int64_t kChunk = 32;  // rows whose bias gradients are summed in order; whatever the number of threads

// body(start, count) for each vector of n elements; the last may be a part of one.
template <typename S, typename Body>
inline void for_vectors(int64_t n, Body body) {
  for (int64_t i = 0; i < n; i += Vec<S>::size()) body(i, std::min<int64_t>(Vec<S>::size(), n - i));
}

// x = logits + bias, in the type that is computed in; the largest of them, NaN if there is one.
template <typename T, typename S>
S widen(const T* logits, const S* bias, int64_t n, S* x) {
  if (bias) {
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<S>(logits[i]) + bias[i];
  } else {
    for (int64_t i = 0; i < n; ++i) x[i] = static_cast<S>(logits[i]);
  }
  S lanes[Vec<S>::size()];
  std::fill_n(lanes, Vec<S>::size(), x[0]);
  auto top = Vec<S>::loadu(lanes);
  const int64_t whole = n - n % Vec<S>::size();
  for (int64_t i = 0; i < whole; i += Vec<S>::size()) top = at::vec::maximum(top, Vec<S>::loadu(x + i));
  top.store(lanes);
  S largest = lanes[0];
  const auto take = [&](S value) { largest = value > largest || std::isnan(value) ? value : largest; };
  for (const S value : lanes) take(value);
  for (int64_t i = whole; i < n; ++i) take(x[i]);
  return largest;
}

// x = exp(x - top), and their sum.
template <typename S>
S exponentials(S* x, int64_t n, S top) {
  const Vec<S> shift(top);
  Vec<S> sums(0);
  const int64_t whole = n - n % Vec<S>::size();
  for (int64_t i = 0; i < whole; i += Vec<S>::size()) {
    const auto e = (Vec<S>::loadu(x + i) - shift).exp();
    e.store(x + i);
    sums = sums + e;
  }
  S lanes[Vec<S>::size()], sum = 0;
  sums.store(lanes);
  for (const S value : lanes) sum += value;
  for (int64_t i = whole; i < n; ++i) sum += x[i] = std::exp(x[i] - top);
  return sum;
}

// Losses of the rows; with `by_bias` (one row of sums for each chunk) or `in_place` logits become their gradient.
template <typename T>
void rows_of(T* logits, const Real<T>* bias, const int64_t* targets, int64_t rows, int64_t n, bool gradient,
             Real<T>* losses, Real<T>* by_bias) {
  using S = Real<T>;
  parallel_for(0, (rows + kChunk - 1) / kChunk, 1, [=](int64_t first, int64_t last) {
    std::vector<S> scratch(n);
    S* x = scratch.data();
    for (int64_t row = first * kChunk; row < std::min(last * kChunk, rows); ++row) {
      T* own = logits + row * n;
      const int64_t target = targets[row];
      const S top = widen<T, S>(own, bias, n, x), picked = x[target], sum = exponentials(x, n, top);
      losses[row] = static_cast<S>(std::log(static_cast<double>(sum))) - (picked - top);
      if (!gradient) continue;
      const S scale = S(1) / sum;
      for (int64_t i = 0; i < n; ++i) x[i] *= scale;
      x[target] -= S(1);
      if (by_bias) {
        S* sums = by_bias + row / kChunk * n;
        for (int64_t i = 0; i < n; ++i) sums[i] += x[i];
      }
      for (int64_t i = 0; i < n; ++i) own[i] = static_cast<T>(x[i]);
    }
  });
}

void check(const Tensor& logits, const std::optional<Tensor>& bias, const Tensor& targets) {
  expect(logits.is_cpu() && logits.dim() == 2 && logits.is_contiguous() && logits.size(1) > 0,
         "rnncore: expected logits [N, V], contiguous and on the CPU, got ", logits.sizes());
  expect(targets.scalar_type() == ScalarType::Long && targets.is_contiguous() && targets.numel() == logits.size(0),
         "rnncore: expected a target for each of ", logits.size(0), " rows, got ", targets);
  const int64_t *ids = elements<const int64_t>(targets), classes = logits.size(1);
  const bool known = std::all_of(ids, ids + targets.numel(), [=](int64_t id) { return 0 <= id && id < classes; });
  if (!known) {  // an IndexError
    throw std::out_of_range("rnncore: a target is not one of the " + std::to_string(classes) + " classes");
  }
  const auto type = real_type(logits.scalar_type());
  expect(!bias || (bias->scalar_type() == type && bias->is_contiguous() && bias->numel() == logits.size(1)),
         "rnncore: expected a bias [V] of ", type);
}

// total += scale x, rounded as torch's operator rounds.
void add_scaled(Tensor total, const Tensor& x, double scale) {
  AtenTensorHandle sum = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_add_Tensor(total.get(), x.get(), scale, &sum));
  torch::stable::copy_(total, Tensor(sum));
}

Tensor run(const Tensor& logits, const std::optional<Tensor>& bias, const Tensor& targets, bool gradient,
           const std::optional<Tensor>& grad_bias, double scale) {
  check(logits, bias, targets);
  const int64_t rows = logits.size(0), n = logits.size(1);
  const auto type = real_type(logits.scalar_type());
  Tensor losses = empty({rows}, type);
  std::optional<Tensor> sums;
  if (grad_bias) sums = zeros({(rows + kChunk - 1) / kChunk, n}, type);
  with_type<float, double, BFloat16>(logits.scalar_type(), "rnncore::cross_entropy", [&]<typename T>() {
    using S = Real<T>;
    rows_of<T>(elements<T>(logits), bias ? elements<const S>(*bias) : nullptr, elements<const int64_t>(targets), rows,
               n, gradient, elements<S>(losses), sums ? elements<S>(*sums) : nullptr);
  });
  if (sums) add_scaled(*grad_bias, torch::stable::sum(*sums, Ints{0}), scale);
  return losses;
}

Tensor cross_entropy(const Tensor& logits, const std::optional<Tensor>& bias, const Tensor& targets) {
  return run(logits, bias, targets, false, std::nullopt, 0);
}

Tensor cross_entropy_gradient(const Tensor& logits, const std::optional<Tensor>& bias, const Tensor& targets,
                              const std::optional<Tensor>& grad_bias, double scale) {
  return run(logits, bias, targets, true, grad_bias, scale);
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(rnncore, library) {
  define<&cross_entropy>(library, "cross_entropy(Tensor logits, Tensor? bias, Tensor targets) -> Tensor");
  define<&cross_entropy_gradient>(
      library,
      "cross_entropy_gradient(Tensor(a!) logits, Tensor? bias, Tensor targets, Tensor(b!)? grad_bias, float scale) -> "
      "Tensor");
}
