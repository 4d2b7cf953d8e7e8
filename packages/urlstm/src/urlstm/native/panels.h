// The product of a recurrent step: few rows, one weight, many calls. Libraries reach half to two thirds of a
// processor's speed here.
//
// The weight [N, K] lies in panels of some of its N rows, so that both threads and vectors take neighbouring columns of
// the result. Each sum runs over k in order: a result depends neither on its place nor on the number of threads.
#pragma once
#include <utility>

#include "rows.h"

namespace {

template <typename R>
class Panels {
  using Vector = at::vec::Vectorized<R>;
  static constexpr int64_t kLanes = Vector::size(), kWidth = 2 * kLanes;
  static constexpr int64_t kAhead = 64;  // how far in k a weight too large for the caches is fetched before its use
#if defined(CPU_CAPABILITY_AVX512)
  static constexpr int64_t kMost = 12;  // rows whose sums fit the registers
#else
  static constexpr int64_t kMost = 6;
#endif

 public:
  explicit Panels(const Tensor& weight)
      : columns_(weight.size(0)),
        depth_(weight.size(1)),
        panels_(empty({count(), depth_, kWidth}, kType<R>)),
        data_(elements<R>(panels_)) {
    const R* from = elements<const R>(weight);
    R* to = data_;
    parallel_for(0, count(), kGrain / (depth_ * kWidth) + 1, [&](int64_t first, int64_t last) {
      for (int64_t panel = first; panel < last; ++panel) {
        const int64_t column = panel * kWidth;
        fill(from + column * weight.stride(0), weight.stride(0), weight.stride(1), std::min(kWidth, columns_ - column),
             to + column * depth_);
      }
    });
  }

  // total [rows, N] = x [rows, K] times the weight's transpose, or, with `add`, that added to it; both contiguous.
  void multiply(R* total, const R* x, int64_t rows, bool add) const {
    const int64_t work = 2 * rows * depth_ * kWidth, blocks = (rows + kMost - 1) / kMost;
    parallel_for(0, count(), (1 << 18) / (work + 1) + 1, [&](int64_t first, int64_t last) {
      for (int64_t panel = first; panel < last; ++panel) {
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t row = block * rows / blocks, number = (block + 1) * rows / blocks - row;
          rows_of<kMost>(number, panel, x + row * depth_, total + row * columns_, add);
        }
      }
    });
  }

 private:
  int64_t count() const { return (columns_ + kWidth - 1) / kWidth; }

  // A panel from so many columns, which lie `by_column` apart; its other columns are zero.
  void fill(const R* from, int64_t by_column, int64_t by_depth, int64_t columns, R* to) const {
    if (columns < kWidth) std::fill_n(to, depth_ * kWidth, R(0));
    for (int64_t start = 0; start < depth_; start += kLanes) {  // a piece that stays in the first cache
      const int64_t end = std::min(start + kLanes, depth_);
      if (by_column == 1) {
        for (int64_t k = start; k < end; ++k) std::copy_n(from + k * by_depth, columns, to + k * kWidth);
      } else {
        for (int64_t j = 0; j < columns; ++j) {
          for (int64_t k = start; k < end; ++k) to[k * kWidth + j] = from[j * by_column + k * by_depth];
        }
      }
    }
  }

  // Finds the kernel for a number of rows.
  template <int64_t number>
  void rows_of(int64_t rows, int64_t panel, const R* x, R* total, bool add) const {
    if constexpr (number > 0) {
      if (rows < number) return rows_of<number - 1>(rows, panel, x, total, add);
      kernel(panel, x, total, add, std::make_index_sequence<number>());
    }
  }

  // By the numbers of its rows, which are constants: only so do compilers keep the sums in registers.
  template <size_t... row>
  void kernel(int64_t panel, const R* x, R* total, bool add, std::index_sequence<row...>) const {
    const R* weight = data_ + panel * depth_ * kWidth;
    Vector low[] = {((void)row, Vector(R(0)))...}, high[] = {((void)row, Vector(R(0)))...};
    for (int64_t k = 0; k < depth_; ++k, weight += kWidth) {
      __builtin_prefetch(weight + kAhead * kWidth), __builtin_prefetch(weight + kAhead * kWidth + kLanes);
      const Vector left = Vector::loadu(weight), right = Vector::loadu(weight + kLanes);
      (multiply_add(x[row * depth_ + k], left, right, low[row], high[row]), ...);
    }
    const int64_t column = panel * kWidth, width = std::min(kWidth, columns_ - column);
    (write(total + row * columns_ + column, low[row], std::min(kLanes, width), add), ...);
    if (width > kLanes) (write(total + row * columns_ + column + kLanes, high[row], width - kLanes, add), ...);
  }

  static void multiply_add(R x, const Vector& left, const Vector& right, Vector& low, Vector& high) {
    const Vector value(x);
    low = at::vec::fmadd(value, left, low);
    high = at::vec::fmadd(value, right, high);
  }

  static void write(R* to, Vector sum, int64_t lanes, bool add) {
    if (add) sum = sum + Vector::loadu(to, lanes);
    sum.store(to, lanes);
  }

  int64_t columns_, depth_;
  Tensor panels_;
  R* data_;
};

}  // namespace
