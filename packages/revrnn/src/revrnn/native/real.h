// Real functions of gates, made of IEEE operations that a compiler turns into vector instructions. With
// -ffp-contract=off they give the same bits wherever they are inlined, which reversal in time relies on.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <type_traits>

namespace {

// e^x by a polynomial, in operations that a compiler turns into vector instructions; 1 unit in the last place or so.
template <typename T>
inline T exponential(T x) {
  constexpr bool wide = std::is_same_v<T, double>;
  constexpr T limit = wide ? T(708) : T(87);
  constexpr T high = wide ? T(6.93147180369123816490e-01) : T(0.693145751953125);
  constexpr T low = wide ? T(1.90821492927058770002e-10) : T(1.42860682030941723212e-6);
  x = std::min(std::max(x, -limit), limit);
  const T n = std::nearbyint(x * T(1.4426950408889634074));
  const T r = std::fma(-n, low, std::fma(-n, high, x));
  constexpr int degree = wide ? 13 : 7;
  T sum = T(1);
  for (int k = degree; k > 0; --k) sum = std::fma(sum * r, T(1) / T(k), T(1));
  using Bits = std::conditional_t<wide, int64_t, int32_t>;
  constexpr int mantissa = wide ? 52 : 23, bias = wide ? 1023 : 127;
  return sum * std::bit_cast<T>(static_cast<Bits>((static_cast<Bits>(n) + bias) << mantissa));
}

template <typename T>
inline T sigmoid(T x) {
  return T(1) / (T(1) + exponential(-x));
}

template <typename T>
inline T hyperbolic_tangent(T x) {
  return T(1) - T(2) / (T(1) + exponential(T(2) * x));
}

// body(i) for first <= i < last, no two of which touch the same memory.
template <typename Body>
inline void each(int64_t first, int64_t last, Body body) {
#pragma GCC ivdep
  for (int64_t i = first; i < last; ++i) body(i);
}

}  // namespace
