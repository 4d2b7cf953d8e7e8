// A matrix transposed and rounded to bfloat16 in one pass: the operator of transposed.py.

#include "tensors.h"

namespace {

constexpr int64_t kTile = 32;
using Line = uint16_t __attribute__((vector_size(2 * kTile)));  // a row of a tile, and of a tile of the result

// Transposes a tile: swaps the squares beside its diagonal, of one element, then of two, and so on.
inline void turn(Line (&tile)[kTile]) {
#ifdef __clang__  // has no shuffle by variables
  for (int64_t row = 0; row < kTile; ++row) {
    for (int64_t lane = 0; lane < row; ++lane) {
      const uint16_t other = tile[row][lane];
      tile[row][lane] = tile[lane][row], tile[lane][row] = other;
    }
  }
#else
#pragma GCC unroll 5
  for (int64_t size = 1; size < kTile; size *= 2) {
    Line low, high;  // which lanes of two lines, the second's from kTile on, make up the first and the second
    for (int64_t lane = 0; lane < kTile; ++lane) {
      low[lane] = lane & size ? kTile + lane - size : lane;
      high[lane] = lane & size ? kTile + lane : lane + size;
    }
#pragma GCC unroll 32
    for (int64_t row = 0; row < kTile; ++row) {
      if (row & size) continue;
      const Line first = tile[row], second = tile[row + size];
      tile[row] = __builtin_shuffle(first, second, low);
      tile[row + size] = __builtin_shuffle(first, second, high);
    }
  }
#endif
}

// The bits of a bfloat16, rounded to the nearest; written so that compilers turn it into vectors.
inline uint16_t rounded(uint32_t bits) {
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return nan ? 0x7fc0 : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline uint16_t rounded(uint16_t bits) { return bits; }

// The bits of x [N, K], its rows contiguous, to those of [K, N].
template <typename T>
void transpose(const T* x, int64_t stride, int64_t rows, int64_t columns, uint16_t* to) {
  parallel_for(0, (rows + kTile - 1) / kTile, 1, [=](int64_t first, int64_t last) {
    Line tile[kTile] = {};
    for (int64_t row = first * kTile; row < std::min(last * kTile, rows); row += kTile) {
      const int64_t height = std::min(kTile, rows - row);
      for (int64_t column = 0; column < columns; column += kTile) {
        const int64_t width = std::min(kTile, columns - column);
        for (int64_t i = 0; i < height; ++i) {
          const T* from = x + (row + i) * stride + column;
          uint16_t* line = reinterpret_cast<uint16_t*>(&tile[i]);
          if (width == kTile) {
#pragma GCC ivdep
            for (int64_t j = 0; j < kTile; ++j) line[j] = rounded(from[j]);
          } else {
            for (int64_t j = 0; j < width; ++j) line[j] = rounded(from[j]);
          }
        }
        turn(tile);
        for (int64_t j = 0; j < width; ++j) std::memcpy(to + (column + j) * rows + row, &tile[j], 2 * height);
      }
    }
  });
}

Tensor transposed_bfloat16(const Tensor& x) {
  expect(x.is_cpu() && x.dim() == 2 && x.stride(1) == 1, "rnncore: expected a matrix on the CPU with ",
         "contiguous rows, got ", x.sizes(), " of strides ", x.strides());
  Tensor result = empty({x.size(1), x.size(0)}, ScalarType::BFloat16);
  uint16_t* to = static_cast<uint16_t*>(result.mutable_data_ptr());
  if (x.scalar_type() == ScalarType::Float) {
    transpose(static_cast<const uint32_t*>(x.const_data_ptr()), x.stride(0), x.size(0), x.size(1), to);
  } else {
    expect(x.scalar_type() == ScalarType::BFloat16, "rnncore: expected float32 or bfloat16, got ", x.scalar_type());
    transpose(static_cast<const uint16_t*>(x.const_data_ptr()), x.stride(0), x.size(0), x.size(1), to);
  }
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(rnncore, library) {
  define<&transposed_bfloat16>(library, "transposed_bfloat16(Tensor x) -> Tensor");
}
