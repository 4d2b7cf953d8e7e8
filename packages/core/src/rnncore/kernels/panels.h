// Products of few rows with a matrix that was laid out for them: in panels, a few vectors wide, one after the other.
// A sum runs over k in order, in one lane. So its bits depend neither on the number of rows nor on that of threads.
#pragma once
#include <ATen/cpu/vec/vec.h>

#include <utility>

#include "tensors.h"

namespace {

template <typename T>
using Vec = at::vec::Vectorized<T>;

template <typename T>
constexpr int64_t kLanes = Vec<T>::size();

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kSums = 24;  // vectors of running sums that registers hold, operands beside them
#else
constexpr int kSums = 12;
#endif
constexpr int64_t kDepth = 64;       // how many k of a panel stay in the first cache while all rows use them
constexpr int64_t kRows = 96;        // rows whose running sums are kept at a time
constexpr int64_t kGrain = 1 << 15;  // multiplications that are worth a thread

// Gives each thread some of the panels, where `work` multiplications belong to each.
template <typename Body>
void for_panels(int64_t panels, int64_t work, Body body) {
  parallel_for(0, panels, kGrain / std::max<int64_t>(work, 1) + 1, [&](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) body(p);
  });
}

// Units of part c of a panel, from the panel's first, where `left` units are left: none to a whole vector.
template <typename T>
int64_t lanes(int64_t left, int64_t c = 0) {
  return std::clamp<int64_t>(left - c * kLanes<T>, 0, kLanes<T>);
}

// weight [4H, K] as [panel][k][gate][lane]: a panel has the 4 gates of as many units as a vector has lanes.
template <typename T>
Tensor gate_panels(const Tensor& weight) {
  const int64_t units = weight.size(0) / 4, inner = weight.size(1), size = inner * 4 * kLanes<T>;
  const int64_t panels = (units + kLanes<T> - 1) / kLanes<T>;
  Tensor packed = empty({panels, size}, weight.scalar_type());
  const T* from = elements<const T>(weight);
  T* to = elements<T>(packed);
  for_panels(panels, size, [=](int64_t p) {
    const int64_t first = p * kLanes<T>, n = lanes<T>(units - first);
    T* panel = to + p * size;
    if (n < kLanes<T>) std::fill_n(panel, size, T(0));
    for (int64_t start = 0; start < inner; start += 16) {  // a line of the cache after the other
      const int64_t end = std::min(start + 16, inner);
      for (int64_t gate = 0; gate < 4; ++gate) {
        for (int64_t lane = 0; lane < n; ++lane) {
          const T* row = from + (gate * units + first + lane) * inner;
          for (int64_t k = start; k < end; ++k) panel[(k * 4 + gate) * kLanes<T> + lane] = row[k];
        }
      }
    }
  });
  return packed;
}

// weight [K, H] as [panel][k][part][lane]: a panel has the units of C vectors.
template <typename T, int C>
Tensor unit_panels(const Tensor& weight) {
  constexpr int64_t width = C * kLanes<T>;
  const int64_t inner = weight.size(0), units = weight.size(1), panels = (units + width - 1) / width;
  Tensor packed = empty({panels, inner * width}, weight.scalar_type());
  const T* from = elements<const T>(weight);
  T* to = elements<T>(packed);
  for_panels(panels, inner * width, [=](int64_t p) {
    const int64_t n = std::min(width, units - p * width);
    T* panel = to + p * inner * width;
    for (int64_t k = 0; k < inner; ++k) {
      std::copy_n(from + k * units + p * width, n, panel + k * width);
      std::fill_n(panel + k * width + n, width - n, T(0));
    }
  });
  return packed;
}

// body(i) for the constants i = 0 to N - 1, written out: arrays that are only indexed so stay in registers.
template <int N, typename Body>
[[gnu::always_inline]] inline void unrolled(Body body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, i>()), ...);
  }(std::make_integer_sequence<int, N>());
}

// sums [R][C][lane] += left [R, depth] times a part of a panel. With `fetching`, a vector for each k is read ahead.
template <typename T, int R, int C, bool fetching>
void add_block(T* sums, const T* left, int64_t stride, const T* panel, int64_t depth, const T* ahead) {
  constexpr int64_t L = kLanes<T>;
  Vec<T> sum[R * C], right[C];
  unrolled<R * C>([&](auto i) __attribute__((always_inline)) { sum[i] = Vec<T>::loadu(sums + i * L); });
  for (int64_t k = 0; k < depth; ++k, panel += C * L) {
    if constexpr (fetching) __builtin_prefetch(ahead + k * L);
    unrolled<C>([&](auto c) __attribute__((always_inline)) { right[c] = Vec<T>::loadu(panel + c * L); });
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      const Vec<T> x(left[r * stride + k]);
      unrolled<C>([&](auto c)
                      __attribute__((always_inline)) { sum[r * C + c] = at::vec::fmadd(x, right[c], sum[r * C + c]); });
    });
  }
  unrolled<R * C>([&](auto i) __attribute__((always_inline)) { sum[i].store(sums + i * L); });
}

// body(R) with the constant R that equals rows, 1 <= rows <= Max.
template <int Max, int R = 1, typename Body>
void with_rows(int64_t rows, Body body) {
  if constexpr (R == Max) {
    body(std::integral_constant<int, R>());
  } else if (rows == R) {
    body(std::integral_constant<int, R>());
  } else {
    with_rows<Max, R + 1>(rows, body);
  }
}

// sums [rows][C][lane] += left [rows, inner] times one panel [inner][C][lane]; rows of `left` are `inner` apart.
template <typename T, int C>
void add_product(T* sums, const T* left, int64_t rows, const T* panel, int64_t inner) {
  constexpr int most = kSums / C;
  const int64_t blocks = (rows + most - 1) / most;
  for (int64_t k = 0; k < inner; k += kDepth) {
    const int64_t depth = std::min(kDepth, inner - k);
    const T *here = panel + k * C * kLanes<T>, *next = here + kDepth * C * kLanes<T>;
    for (int64_t block = 0, r = 0, n = 0; block < blocks; ++block, r += n) {
      n = (rows - r + blocks - block - 1) / (blocks - block);  // equal ones
      with_rows<most>(n, [&](auto R) {
        // The first blocks share the lines of what comes next.
        const auto add = block < C ? &add_block<T, R, C, true> : &add_block<T, R, C, false>;
        add(sums + r * C * kLanes<T>, left + r * inner + k, inner, here, depth, next + block * kDepth * kLanes<T>);
      });
    }
  }
}

}  // namespace
