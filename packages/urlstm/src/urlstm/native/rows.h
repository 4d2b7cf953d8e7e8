// What the kernels share: rows in threads, exponentials of many numbers at once, numbers too small to keep, checks.
#pragma once
#include <ATen/cpu/vec/vec.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "tensors.h"

namespace {

constexpr int64_t kGrain = 4096;  // elements that are worth a thread

// Gives each thread some of the rows: body(first, last), 0 <= first < last <= rows.
template <typename Body>
void for_rows(int64_t rows, int64_t columns, Body body) {
  parallel_for(0, rows, kGrain / columns + 1, body);
}

// body(i) for 0 <= i < n, no two of which touch the same memory.
template <typename Body>
inline void each(int64_t n, Body body) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) body(i);
}

// Torch's vector exponential, in place.
template <typename R>
void exponentials(R* values, int64_t n) {
  using Vector = at::vec::Vectorized<R>;
  for (int64_t i = 0; i < n; i += Vector::size()) {
    const int64_t lanes = std::min<int64_t>(Vector::size(), n - i);
    Vector::loadu(values + i, lanes).exp().store(values + i, lanes);
  }
}

// In place, x to e^-x, of which sigmoid is 1 / (1 + .), and to e^-2x, of which tanh is 2 / (1 + .) - 1.
template <typename R>
void powers(R* x, int64_t n, R scale) {
  each(n, [=](int64_t i) { x[i] *= scale; });
  exponentials(x, n);
}

template <typename R>
inline R sigmoid_of(R power) {
  return R(1) / (R(1) + power);
}

template <typename R>
inline R tanh_of(R power) {
  return R(2) / (R(1) + power) - R(1);
}

// While it lives, numbers below the smallest normal one count as zero in all threads. Gradients that fade away through
// a long sequence else become such numbers, with which a processor is up to a hundred times slower.
class FlushDenormals {
 public:
  FlushDenormals() : before_(get_num_threads()) {
#if defined(__SSE2__)
    in_every_thread([this](size_t thread) {
      before_[thread] = _mm_getcsr();
      _mm_setcsr(before_[thread] | 0x8040);
    });
#endif
  }
  ~FlushDenormals() {
#if defined(__SSE2__)
    in_every_thread([this](size_t thread) { _mm_setcsr(before_[thread]); });
#endif
  }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
  template <typename Body>
  void in_every_thread(Body body) {
    parallel_for(0, before_.size(), 1, [&](int64_t first, int64_t last) {
      for (int64_t thread = first; thread < last; ++thread) body(thread);
    });
  }
  std::vector<unsigned> before_;
};

// Throws unless a tensor is what a kernel reads.
void check(const char* name, const Tensor& tensor, ScalarType type, Ints shape) {
  if (fits(tensor, type, shape) && tensor.is_contiguous()) return;
  fail("urlstm: expected ", name, " ", shape, " of ", type, ", contiguous and on the CPU, got ", tensor);
}

}  // namespace
