// Rows of numbers: loops over them, layer normalisation and its gradient, and how items of a batch are shared out.
#pragma once
#include <ATen/cpu/vec/functional_base.h>

#include <cmath>
#include <new>

#include "tensors.h"

namespace {

// Room for numbers that begins with a line of the cache: a vector that lies in two lines takes twice as long.
template <typename T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t kLine{64};

  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kLine)); }
  void deallocate(T* room, size_t) { ::operator delete(room, kLine); }
  bool operator==(const Aligned&) const = default;
};

template <typename T>
using Scratch = std::vector<T, Aligned<T>>;

template <typename T, typename Body>
inline void each(int64_t n, Body body) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) body(i);
}

template <typename T, typename Body>
inline T sum_of(int64_t n, Body term) {
  // Four sums at a time: one would wait for its own last addition.
  const int64_t part = n / 4;
  T a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t i = 0; i < part; ++i) {
    a += term(i), b += term(i + part), c += term(i + 2 * part), d += term(i + 3 * part);
  }
  for (int64_t i = 4 * part; i < n; ++i) a += term(i);
  return (a + b) + (c + d);
}

template <typename T>
inline T dot(const T* a, const T* b, int64_t n) {
  return sum_of<T>(n, [=](int64_t i) { return a[i] * b[i]; });
}

template <typename T>
inline void add_scaled(T* to, const T* from, T factor, int64_t n) {
  each<T>(n, [=](int64_t i) { to[i] += factor * from[i]; });
}

template <typename T>
using Vec = at::vec::Vectorized<T>;

// to[k] = factor x . rows[k], for `count` rows that begin `stride` after each other.
template <typename T>
inline void dots(T* to, const T* x, const T* rows, int64_t stride, int64_t count, int64_t n, T factor) {
  for (int64_t k = 0; k < count; ++k, rows += stride) {
    Vec<T> sum(0);
    for (int64_t i = 0; i < n; i += Vec<T>::size()) {
      const int64_t lanes = std::min<int64_t>(Vec<T>::size(), n - i);
      sum = at::vec::fmadd(Vec<T>::loadu(x + i, lanes), Vec<T>::loadu(rows + i, lanes), sum);
    }
    to[k] = factor * at::vec::vec_reduce_all<T>([](Vec<T>& a, Vec<T>& b) { return a + b; }, sum);
  }
}

// to += the sum of weights[k step] rows[k], for `count` rows that begin `stride` after each other.
template <typename T>
inline void combine(T* to, const T* weights, int64_t step, const T* rows, int64_t stride, int64_t count, int64_t n) {
  for (int64_t i = 0; i < n; i += Vec<T>::size()) {
    const int64_t lanes = std::min<int64_t>(Vec<T>::size(), n - i);
    Vec<T> sum = Vec<T>::loadu(to + i, lanes);
    for (int64_t k = 0; k < count; ++k) {
      sum = at::vec::fmadd(Vec<T>(weights[k * step]), Vec<T>::loadu(rows + k * stride + i, lanes), sum);
    }
    sum.store(to + i, lanes);
  }
}

// In place, each of `count` rows of n numbers to its softmax.
template <typename T>
void softmax(T* x, int64_t count, int64_t n) {
  for (int64_t k = 0; k < count; ++k) {
    T* row = x + k * n;
    const T top = *std::max_element(row, row + n);
    for (int64_t i = 0; i < n; ++i) row[i] -= top;
  }
  for (int64_t i = 0; i < count * n; i += Vec<T>::size()) {
    const int64_t lanes = std::min<int64_t>(Vec<T>::size(), count * n - i);
    Vec<T>::loadu(x + i, lanes).exp().store(x + i, lanes);
  }
  for (int64_t k = 0; k < count; ++k) {
    T *row = x + k * n, sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += row[i];
    for (int64_t i = 0; i < n; ++i) row[i] /= sum;
  }
}

// In place, x to 1 / (1 + exp(factor x)): the logistic function for factor -1.
template <typename T>
void logistic(T* x, int64_t n, T factor) {
  for (int64_t i = 0; i < n; i += Vec<T>::size()) {
    const int64_t lanes = std::min<int64_t>(Vec<T>::size(), n - i);
    (Vec<T>(1) / (Vec<T>(1) + (Vec<T>(factor) * Vec<T>::loadu(x + i, lanes)).exp())).store(x + i, lanes);
  }
}

template <typename T>
void hyperbolic_tangent(T* x, int64_t n) {
  logistic(x, n, T(-2));
  each<T>(n, [=](int64_t i) { x[i] = T(2) * x[i] - T(1); });
}

// The affine part of a normalisation, gamma and beta: `groups` runs of `size` numbers are standardised each by itself;
// one run, of all rows, has weights of its own for every number, several share those of a row.
template <typename T>
struct Norm {
  const T *gamma, *beta;
  int64_t groups, size;

  // In place, x to zero mean and unit variance; where a scale of each group is kept, there too.
  void standardise(T* x, T* scales) const {
    for (int64_t g = 0; g < groups; ++g, x += size) {
      const T mean = sum_of<T>(size, [=](int64_t i) { return x[i]; }) / size;
      const T variance = sum_of<T>(size, [=](int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / size;
      const T scale = T(1) / std::sqrt(variance + T(1e-5));
      each<T>(size, [=](int64_t i) { x[i] = (x[i] - mean) * scale; });
      scales[g] = scale;
    }
  }

  void affine(const T* x, T* to) const {
    for (int64_t g = 0; g < groups; ++g, x += size, to += size) {
      const T *a = gamma, *b = beta;
      each<T>(size, [=](int64_t i) { to[i] = x[i] * a[i] + b[i]; });
    }
  }

  // In place, from the gradient by the result to that by what was normalised; adds those by gamma and beta.
  void gradient(T* grad, const T* x, const T* scales, T* by_gamma, T* by_beta) const {
    for (int64_t g = 0; g < groups; ++g, grad += size, x += size) {
      const T* a = gamma;
      each<T>(size, [=](int64_t i) {
        by_gamma[i] += grad[i] * x[i];
        by_beta[i] += grad[i];
        grad[i] *= a[i];
      });
      const T mean = sum_of<T>(size, [=](int64_t i) { return grad[i]; }) / size, slope = dot(grad, x, size) / size;
      const T scale = scales[g];
      each<T>(size, [=](int64_t i) { grad[i] = scale * (grad[i] - mean - x[i] * slope); });
    }
  }
};

// `rows` rows of `width` numbers, normalised together or each by itself.
template <typename T>
Norm<T> norm_of(const Tensor& gamma, const Tensor& beta, bool joint, int64_t rows, int64_t width) {
  const int64_t groups = joint ? 1 : rows, size = joint ? rows * width : width;
  expect(gamma.numel() == size && beta.numel() == size && gamma.is_contiguous() && beta.is_contiguous(),
         "rmc: expected weights of a normalisation of ", size, " numbers, got ", gamma.sizes());
  return {elements<const T>(gamma), elements<const T>(beta), groups, size};
}

// Shares the items of a batch out among threads: body(first, last, part) for each of `parts` parts.
inline int64_t parts_of(int64_t batch) { return std::clamp<int64_t>(batch / 2, 1, get_num_threads()); }

template <typename Body>
void for_parts(int64_t batch, int64_t parts, Body body) {
  parallel_for(0, parts, 1, [&](int64_t from, int64_t to) {
    for (int64_t part = from; part < to; ++part) body(batch * part / parts, batch * (part + 1) / parts, part);
  });
}

// Sums over the items of a batch, one for each part, which are added to a tensor in order.
template <typename T>
struct Sums {
  Scratch<T> values;
  int64_t size;

  Sums(int64_t parts, int64_t size) : values(parts * size), size(size) {}
  T* of(int64_t part) { return values.data() + part * size; }
  void add_to(const Tensor& total) const {
    T* to = elements<T>(total);
    for (size_t start = 0; start < values.size(); start += size) add_scaled(to, values.data() + start, T(1), size);
  }
};

inline void check(const char* name, const Tensor& tensor, const Tensor& like, Ints shape) {
  if (fits(tensor, like, shape) && tensor.stride(-1) == 1) return;
  fail("rmc: expected ", name, " ", shape, " of ", like.scalar_type(), " on the CPU, got ", tensor);
}

// The rows of a memory [B, S, width] and of the input [B, width] behind it, of any strides but the last.
template <typename T>
struct Rows {
  T *memory, *input;
  int64_t slots, item, row, step;

  Rows(const Tensor& of_memory, const Tensor& of_input)
      : memory(elements<T>(of_memory)),
        input(elements<T>(of_input)),
        slots(of_memory.size(1)),
        item(of_memory.stride(0)),
        row(of_memory.stride(1)),
        step(of_input.stride(0)) {}
  T* at(int64_t b, int64_t n) const { return n < slots ? memory + b * item + n * row : input + b * step; }
};

}  // namespace
