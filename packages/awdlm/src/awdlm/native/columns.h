// What the kernels share: the columns of [T, B, H] tensors in threads, a part of a row at a time, and checks.
// Elements of the 16-bit types are computed in float. A result depends neither on where its column stands in a vector
// nor on the number of threads.
#pragma once

#include "tensors.h"

namespace {

constexpr int64_t kGrain = 16384;  // elements that are worth a thread
constexpr int64_t kBlock = 512;    // columns at a time, whose values stay in the first cache

// Gives each thread some of the columns of B rows: body(first, last), 0 <= first < last <= B H.
template <typename Body>
void for_columns(int64_t steps, int64_t columns, Body body) {
  parallel_for(0, columns, kGrain / std::max<int64_t>(steps, 1) + 1, body);
}

// Calls body(row, unit, column, n) for parts of rows: the columns from `column` to column + n.
template <typename Body>
void for_parts(int64_t first, int64_t last, int64_t units, Body body) {
  for (int64_t column = first, end = first; column < last; column = end) {
    const int64_t row = column / units;
    end = std::min({last, column + kBlock, (row + 1) * units});
    body(row, column - row * units, column, end - column);
  }
}

// body(i) for 0 <= i < n, no two of which touch the same memory.
template <typename Body>
inline void each(int64_t n, Body body) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) body(i);
}

// Throws unless a tensor is what a kernel reads; its rows may lie apart where `strided`.
void check(const char* name, const Tensor& tensor, ScalarType type, Ints shape, bool strided = false) {
  if (fits(tensor, type, shape) && (tensor.is_contiguous() || (strided && tensor.stride(-1) == 1))) return;
  fail("awdlm: expected ", name, " ", shape, " of ", type, ", contiguous and on the CPU, got ", tensor, ", strides ",
       tensor.strides());
}

// body<T>() for the T that elements of y, or of f and z, are stored as.
template <typename Body>
void with_stored(ScalarType type, const char* name, Body body) {
  with_type<float, double, BFloat16, Half>(type, name, body);
}

}  // namespace
