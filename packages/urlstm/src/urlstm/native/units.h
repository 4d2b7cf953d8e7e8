// One row of a time step of each unit, and the local derivatives of its state, as in eager.py. n units H; the blocks of
// a row of gates lie one after the other. `before` is the state that the step began with, `cell` what forward left.
#pragma once
#include "rows.h"

namespace {

// In place, x to its softmax.
template <typename R>
void softmax(R* x, int64_t n) {
  const R top = *std::max_element(x, x + n);
  each(n, [=](int64_t i) { x[i] -= top; });
  exponentials(x, n);
  R sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  each(n, [=](int64_t i) { x[i] /= sum; });
}

template <typename R>
void cumulate(const R* shares, R* sums, int64_t n) {
  R sum = 0;
  for (int64_t i = 0; i < n; ++i) sums[i] = sum += shares[i];
}

// From the gradient by the cumulative sum of a softmax to that by its argument, in place.
template <typename R>
void cumax_gradient(R* grad, const R* shares, int64_t n) {
  R sum = 0, mean = 0;
  for (int64_t i = n - 1; i >= 0; --i) {
    grad[i] = sum += grad[i];
    mean += shares[i] * sum;
  }
  each(n, [=](int64_t i) { grad[i] = shares[i] * (grad[i] - mean); });
}

// h = o tanh(c).
template <typename R>
void hidden_from_cell(const R* o, const R* c, R* h, int64_t n) {
  std::copy_n(c, n, h);
  powers(h, n, R(-2));
  each(n, [=](int64_t i) { h[i] = o[i] * tanh_of(h[i]); });
}

// Of h = o tanh(c): by o before activation, and by c.
template <typename R>
void hidden_derivatives(const R* o, const R* c, R* by_o, R* by_c, int64_t n) {
  std::copy_n(c, n, by_c);
  powers(by_c, n, R(-2));
  each(n, [=](int64_t i) {
    const R tanh_c = tanh_of(by_c[i]);
    by_o[i] = tanh_c * o[i] * (R(1) - o[i]);
    by_c[i] = o[i] * (R(1) - tanh_c * tanh_c);
  });
}

// Refine gate. Blocks r, f, u, o: g = 2 r f + (1 - 2 r) f^2, c = g c' + (1 - g) u, h = o tanh(c). With `cumax`, f is
// the cumulative softmax of its block, which then holds the softmax.
template <bool cumax>
struct Refine {
  static constexpr int64_t blocks = 4, work = cumax ? 1 : 0;  // `work` times n numbers of scratch
  static constexpr bool cell = true;
  static constexpr bool is_cumax(int64_t block) { return cumax && block == 1; }

  template <typename R>
  static void forward(R* gates, const R*, R* c, R* h, R*, R* scratch, int64_t n) {
    R *r = gates, *f = gates + n, *u = f + n, *o = u + n, *forget = cumax ? scratch : f;
    powers(r, cumax ? n : 2 * n, R(-1)), powers(u, n, R(-2)), powers(o, n, R(-1));
    if constexpr (cumax) softmax(f, n), cumulate(f, forget, n);
    each(n, [=](int64_t i) {
      r[i] = sigmoid_of(r[i]), u[i] = tanh_of(u[i]), o[i] = sigmoid_of(o[i]);
      if constexpr (!cumax) f[i] = sigmoid_of(f[i]);
      const R x = forget[i], g = R(2) * r[i] * x + (R(1) - R(2) * r[i]) * x * x;
      c[i] = g * c[i] + (R(1) - g) * u[i];
    });
    hidden_from_cell(o, c, h, n);
  }

  template <typename R>
  static void derivatives(const R* gates, const R* c, const R* before, R* by, R* carry, R* by_hidden, R* scratch,
                          int64_t n) {
    const R *r = gates, *f = gates + n, *u = f + n, *o = u + n;
    if constexpr (cumax) cumulate(f, scratch, n), f = scratch;
    hidden_derivatives(o, c, by + 3 * n, by_hidden, n);
    each(n, [=](int64_t i) {
      const R x = f[i], less = R(1) - R(2) * r[i], g = R(2) * r[i] * x + less * x * x, by_g = before[i] - u[i];
      const R by_f = by_g * R(2) * (r[i] + less * x);
      by[i] = by_g * R(2) * x * (R(1) - x) * r[i] * (R(1) - r[i]);
      by[n + i] = cumax ? by_f : by_f * x * (R(1) - x);
      by[2 * n + i] = (R(1) - g) * (R(1) - u[i] * u[i]);
      carry[i] = g;
    });
  }
};

// Master gates. Blocks i, f, u, o, a, b: input I = 1 - cumax(a), forget F = cumax(b), w = F I; c = (f w + F - w) c' +
// (i w + I - w) u, h = o tanh(c). Blocks a and b then hold softmaxes.
struct Ordered {
  static constexpr int64_t blocks = 6, work = 2;
  static constexpr bool cell = true;
  static constexpr bool is_cumax(int64_t block) { return block > 3; }

  template <typename R>
  static void forward(R* gates, const R*, R* c, R* h, R*, R* scratch, int64_t n) {
    R *in = gates, *f = in + n, *u = f + n, *o = u + n, *a = o + n, *b = a + n, *sum_a = scratch, *sum_b = scratch + n;
    powers(in, 2 * n, R(-1)), powers(u, n, R(-2)), powers(o, n, R(-1));
    softmax(a, n), softmax(b, n), cumulate(a, sum_a, n), cumulate(b, sum_b, n);
    each(n, [=](int64_t i) {
      in[i] = sigmoid_of(in[i]), f[i] = sigmoid_of(f[i]), u[i] = tanh_of(u[i]), o[i] = sigmoid_of(o[i]);
      const R input = R(1) - sum_a[i], forget = sum_b[i], both = input * forget;
      c[i] = (f[i] * both + forget - both) * c[i] + (in[i] * both + input - both) * u[i];
    });
    hidden_from_cell(o, c, h, n);
  }

  template <typename R>
  static void derivatives(const R* gates, const R* c, const R* before, R* by, R* carry, R* by_hidden, R* scratch,
                          int64_t n) {
    const R *in = gates, *f = in + n, *u = f + n, *o = u + n, *sum_a = scratch, *sum_b = scratch + n;
    cumulate(o + n, scratch, n), cumulate(o + 2 * n, scratch + n, n);
    hidden_derivatives(o, c, by + 3 * n, by_hidden, n);
    each(n, [=](int64_t i) {
      const R input = R(1) - sum_a[i], forget = sum_b[i], both = input * forget;
      const R by_both = before[i] * (f[i] - R(1)) + u[i] * (in[i] - R(1));
      by[i] = u[i] * both * in[i] * (R(1) - in[i]);
      by[n + i] = before[i] * both * f[i] * (R(1) - f[i]);
      by[2 * n + i] = (in[i] * both + input - both) * (R(1) - u[i] * u[i]);
      by[4 * n + i] = -(u[i] + by_both * forget);
      by[5 * n + i] = before[i] + by_both * input;
      carry[i] = f[i] * both + forget - both;
    });
  }
};

// GRU with a refine gate. Blocks r, z, u, s; the recurrent product comes apart, its part q of u is kept in `kept`:
// u = tanh(x + r q), g = 2 s z + (1 - 2 s) z^2, h = g h' + (1 - g) u.
struct RefineGRU {
  static constexpr int64_t blocks = 4, work = 0;
  static constexpr bool cell = false;
  static constexpr bool is_cumax(int64_t) { return false; }

  template <typename R>
  static void forward(R* gates, const R* product, R*, R* h, R* kept, R*, int64_t n) {
    R *r = gates, *z = r + n, *u = z + n, *s = u + n;
    const R* q = product + 2 * n;
    each(2 * n, [=](int64_t i) { r[i] += product[i]; });
    each(n, [=](int64_t i) { s[i] += product[3 * n + i], kept[i] = q[i]; });
    powers(r, 2 * n, R(-1)), powers(s, n, R(-1));
    each(n, [=](int64_t i) {
      r[i] = sigmoid_of(r[i]), z[i] = sigmoid_of(z[i]), s[i] = sigmoid_of(s[i]);
      u[i] += r[i] * q[i];
    });
    powers(u, n, R(-2));
    each(n, [=](int64_t i) {
      u[i] = tanh_of(u[i]);
      const R g = R(2) * s[i] * z[i] + (R(1) - R(2) * s[i]) * z[i] * z[i];
      h[i] = g * h[i] + (R(1) - g) * u[i];
    });
  }

  template <typename R>
  static void derivatives(const R* gates, const R* kept, const R* before, R* by, R* carry, R*, R*, int64_t n) {
    const R *r = gates, *z = r + n, *u = z + n, *s = u + n;
    each(n, [=](int64_t i) {
      const R x = z[i], less = R(1) - R(2) * s[i], g = R(2) * s[i] * x + less * x * x, by_g = before[i] - u[i];
      const R by_u = (R(1) - g) * (R(1) - u[i] * u[i]);
      by[i] = by_u * kept[i] * r[i] * (R(1) - r[i]);
      by[n + i] = by_g * R(2) * (s[i] + less * x) * x * (R(1) - x);
      by[2 * n + i] = by_u;
      by[3 * n + i] = by_g * R(2) * x * (R(1) - x) * s[i] * (R(1) - s[i]);
      carry[i] = g;
    });
  }
};

}  // namespace
