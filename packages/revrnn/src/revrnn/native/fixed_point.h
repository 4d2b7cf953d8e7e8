// Fixed-point numbers and their reversible multiplication, as in fixed_point.py, a row of units at a time.
#pragma once
#include <limits>

#include "real.h"

namespace {

constexpr int kHiddenBits = 23;
constexpr int kForgetBits = 10;
constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
constexpr int64_t kForgetMask = (int64_t(1) << kForgetBits) - 1;

template <typename T>
inline int64_t fixed(T u) {
  return static_cast<int64_t>(std::nearbyint(u * T(1 << kHiddenBits)));
}

template <typename T>
inline T real(int32_t h) {
  return static_cast<T>(h) * T(1.0 / (1 << kHiddenBits));
}

// A forget gate as a fixed-point number from 1 to 1024; a gate that is not a number becomes 1.
template <typename T>
inline int64_t forget(T z) {
  const int64_t gate = static_cast<int64_t>(std::nearbyint(z * T(1 << kForgetBits)));
  return std::min<int64_t>(std::max<int64_t>(gate, 1), 1 << kForgetBits);
}

// The rounded gate as a real number: the derivative of a unit by its last value.
template <typename T>
inline T kept(T z) {
  const T gate = std::nearbyint(z * T(1 << kForgetBits));
  return std::min(std::max(gate, T(1)), T(1 << kForgetBits)) * T(1.0 / (1 << kForgetBits));
}

// Floored quotient and remainder of n by 1 <= d <= 1024, in double precision, which vectorises far better than 64-bit
// integers do. |n| < 2^43: the product with the inverse is off by one at most.
inline void divide(double n, double d, double inverse, double& quotient, double& remainder) {
  const double near = std::floor(n * inverse);
  const double rest = std::fma(-near, d, n);
  const double correction = (rest >= d ? 1.0 : 0.0) - (rest < 0.0 ? 1.0 : 0.0);
  quotient = near + correction;
  remainder = std::fma(-correction, d, rest);
}

// The same for 0 <= n < 2^63, as in long division with digits of 30 bits.
inline void divide(int64_t n, int64_t d, int64_t& quotient, int64_t& remainder) {
  constexpr int digit = 30;
  const double divisor = static_cast<double>(d), inverse = 1.0 / divisor;
  double high, carry, low, rest;
  divide(static_cast<double>(n >> digit), divisor, inverse, high, carry);
  const double next = static_cast<double>(n & ((int64_t(1) << digit) - 1));
  divide(std::fma(carry, static_cast<double>(int64_t(1) << digit), next), divisor, inverse, low, rest);
  quotient = (static_cast<int64_t>(high) << digit) + static_cast<int64_t>(low);
  remainder = static_cast<int64_t>(rest);
}

struct Reach {
  int64_t fullest = 0;   // the largest word
  int64_t farthest = 0;  // the largest magnitude of a unit
};

constexpr int64_t kBlock = 512;  // most units at a time

// h <- h * gate / 1024 + add for n units; without `buffered`, the bits that the product loses are gone.
template <bool buffered, typename T>
void advance(int64_t n, const int64_t* gate, const int64_t* add, int32_t* h, int64_t* word, T* value, Reach& reach) {
  int64_t next[kBlock];
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    next[i] = (h[i] >> kForgetBits) * gate[i] + add[i];
    if constexpr (buffered) {
      int64_t quotient, remainder;
      divide((word[i] << kForgetBits) + (h[i] & kForgetMask), gate[i], quotient, remainder);
      next[i] += remainder;
      word[i] = quotient;
    }
  }
  // Loops of their own: together with the division, the compiler would vectorise neither.
  int64_t full = reach.fullest, least = -reach.farthest, most = reach.farthest;
  for (int64_t i = 0; buffered && i < n; ++i) full = word[i] > full ? word[i] : full;
  for (int64_t i = 0; i < n; ++i) {
    most = next[i] > most ? next[i] : most;
    least = next[i] < least ? next[i] : least;
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    h[i] = static_cast<int32_t>(next[i]);
    value[i] = real<T>(h[i]);
  }
  reach = {full, std::max(most, -std::max(least, -kMost))};  // what came of a NaN is the most negative number
}

template <typename T>
void retreat(int64_t n, const int64_t* gate, const int64_t* add, int32_t* h, int64_t* word, T* value) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const double divisor = static_cast<double>(gate[i]);
    double quotient, remainder;
    divide(static_cast<double>(h[i] - add[i]), divisor, 1.0 / divisor, quotient, remainder);
    const int64_t grown = word[i] * gate[i] + static_cast<int64_t>(remainder);
    word[i] = grown >> kForgetBits;
    h[i] = static_cast<int32_t>((static_cast<int64_t>(quotient) << kForgetBits) + (grown & kForgetMask));
    value[i] = real<T>(h[i]);
  }
}

// Some columns of a row with their gates and addends as integers, made in loops of their own, which vectorise.
template <typename T>
struct Block {
  int64_t gate[kBlock], add[kBlock];

  template <typename Z, typename U>
  Block(int64_t first, int64_t n, Z z, U u) {
    each(0, n, [&](int64_t i) { gate[i] = forget<T>(z(first + i)); });
    // z - z is 0, or a NaN where z is none of the numbers: its unit then leaves the range, and is seen.
    each(0, n, [&](int64_t i) { add[i] = fixed<T>(u(first + i) + (z(first + i) - z(first + i))); });
  }
};

}  // namespace
