// What the kernels share: vectors of a row, rows in threads, checks.
#pragma once
#include <ATen/cpu/vec/vec.h>

#include "tensors.h"

namespace {

template <typename T>
using Vec = at::vec::Vectorized<T>;

constexpr int64_t kGrain = 4096;  // elements that are worth a thread

// Gives each thread some of the rows: body(first, last), 0 <= first < last <= rows.
template <typename Body>
void for_rows(int64_t rows, int64_t columns, Body body) {
  parallel_for(0, rows, kGrain / std::max<int64_t>(columns, 1) + 1, body);
}

// body(start, count) for each vector of n elements; the last may be a part of one.
template <typename T, typename Body>
inline void for_vectors(int64_t n, Body body) {
  for (int64_t i = 0; i < n; i += Vec<T>::size()) body(i, std::min<int64_t>(Vec<T>::size(), n - i));
}

template <typename T>
Vec<T> sigmoid(const Vec<T>& x) {
  return Vec<T>(1) / (Vec<T>(1) + x.neg().exp());
}

template <typename T>
Vec<T> hyperbolic_tangent(const Vec<T>& x) {
  return Vec<T>(2) / (Vec<T>(1) + (Vec<T>(-2) * x).exp()) - Vec<T>(1);
}

// Throws unless a tensor is what a kernel reads or writes.
void check(const char* name, const Tensor& tensor, const Tensor& like, Ints shape) {
  if (fits(tensor, like, shape) && tensor.is_contiguous()) return;
  fail("selfish: expected ", name, " ", shape, " of ", like.scalar_type(), ", contiguous and on the CPU, got ", tensor);
}

}  // namespace
