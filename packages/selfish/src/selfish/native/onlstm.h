// One step of an ordered-neurons LSTM and its gradient, as in eager.py. A row of gates holds the master gates ci and
// cf, `chunks` numbers each, then o, g, i, f, n units each. What is kept of the master gates is their softmax.
#pragma once
#include "rows.h"

namespace {

// In place, x to its softmax.
template <typename T>
void softmax(T* x, int64_t n) {
  const Vec<T> top(*std::max_element(x, x + n));
  for_vectors<T>(n, [=](int64_t i, int64_t count) { (Vec<T>::loadu(x + i, count) - top).exp().store(x + i, count); });
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i];
  for (int64_t i = 0; i < n; ++i) x[i] /= sum;
}

// The master gates ci = 1 - cumax and cf = cumax of each unit, from the softmaxes; returns the sums over chunks.
template <typename T>
std::pair<T, T> spread_masters(const T* shares, int64_t chunks, int64_t size, T* ci, T* cf) {
  T left = 0, right = 0, sum_ci = 0, sum_cf = 0;
  for (int64_t k = 0; k < chunks; ++k) {
    left += shares[k], right += shares[chunks + k];
    std::fill_n(ci + k * size, size, T(1) - left), std::fill_n(cf + k * size, size, right);
    sum_ci += T(1) - left, sum_cf += right;
  }
  return {sum_ci, sum_cf};
}

// From the gradient by each unit's cumulative sum of a softmax to that by the softmax's argument, one for each chunk.
template <typename T>
void cumax_gradient(const T* by_unit, const T* shares, int64_t chunks, int64_t size, T sign, T* to) {
  T sum = 0, mean = 0;
  for (int64_t k = chunks - 1; k >= 0; --k) {
    T own = 0;
    for (int64_t j = 0; j < size; ++j) own += by_unit[k * size + j];
    to[k] = sum += sign * own;
    mean += shares[k] * sum;
  }
  for (int64_t k = 0; k < chunks; ++k) to[k] = shares[k] * (to[k] - mean);
}

struct Shape {
  int64_t rows, n, chunks, size, width;

  Shape(const Tensor& state, const Tensor& gates) {
    expect(state.dim() == 2 && gates.dim() == 2, "selfish: expected a state [B, H] and gates [B, W], got ",
           state.sizes(), " and ", gates.sizes());
    rows = state.size(0), n = state.size(1), width = gates.size(1), chunks = (width - 4 * n) / 2;
    expect(chunks > 0 && width == 4 * n + 2 * chunks && n % chunks == 0, "selfish: no chunks in gates of ", width,
           " for ", n, " units");
    size = n / chunks;
    check("state", state, state, {rows, n}), check("gates", gates, state, {rows, width});
  }
};

// `sums`: of the master gates over chunks, [2, B], ci and then cf.
void onlstm_forward(const Tensor& product, const Tensor& gates, const Tensor& before, const Tensor& c, const Tensor& h,
                    const Tensor& sums) {
  const Shape s(before, gates);
  check("product", product, before, {s.rows, s.width}), check("sums", sums, before, {2, s.rows});
  check("c", c, before, {s.rows, s.n}), check("h", h, before, {s.rows, s.n});
  with_real(before.scalar_type(), "selfish::onlstm_forward", [&]<typename T>() {
    const T *from = elements<const T>(product), *old = elements<const T>(before);
    T *all = elements<T>(gates), *cell = elements<T>(c), *out = elements<T>(h);
    T* sum = elements<T>(sums);
    for_rows(s.rows, s.width, [=](int64_t first, int64_t last) {
      std::vector<T> masters(2 * s.n);
      T *ci = masters.data(), *cf = ci + s.n;
      for (int64_t row = first; row < last; ++row) {
        T *shares = all + row * s.width, *gate = shares + 2 * s.chunks;
        const T *add = from + row * s.width, *add_gate = add + 2 * s.chunks;
        for (int64_t k = 0; k < 2 * s.chunks; ++k) shares[k] += add[k];
        softmax(shares, s.chunks), softmax(shares + s.chunks, s.chunks);
        std::tie(sum[row], sum[s.rows + row]) = spread_masters(shares, s.chunks, s.size, ci, cf);
        for_vectors<T>(s.n, [=](int64_t i, int64_t count) {
          const auto total = [=](int64_t block) {
            return Vec<T>::loadu(gate + block * s.n + i, count) + Vec<T>::loadu(add_gate + block * s.n + i, count);
          };
          const Vec<T> o = sigmoid<T>(total(0)), g = hyperbolic_tangent<T>(total(1));
          const Vec<T> in = sigmoid<T>(total(2)), f = sigmoid<T>(total(3)), one(1);
          const Vec<T> input = Vec<T>::loadu(ci + i, count), forget = Vec<T>::loadu(cf + i, count);
          const Vec<T> both = input * forget, keep = forget - both * (one - f), write = input - both * (one - in);
          const Vec<T> now = keep * Vec<T>::loadu(old + row * s.n + i, count) + write * g;
          o.store(gate + i, count), g.store(gate + s.n + i, count);
          in.store(gate + 2 * s.n + i, count), f.store(gate + 3 * s.n + i, count);
          now.store(cell + row * s.n + i, count);
          (o * hyperbolic_tangent<T>(now)).store(out + row * s.n + i, count);
        });
      }
    });
  });
}

void onlstm_backward(const Tensor& grad_h, const Tensor& grad_c, const Tensor& gates, const Tensor& before,
                     const Tensor& c, const Tensor& grad_gates) {
  const Shape s(before, gates);
  check("grad_gates", grad_gates, before, {s.rows, s.width});
  for (const Tensor* tensor : {&grad_h, &grad_c, &c}) check("state", *tensor, before, {s.rows, s.n});
  with_real(before.scalar_type(), "selfish::onlstm_backward", [&]<typename T>() {
    const T *by_h = elements<const T>(grad_h), *all = elements<const T>(gates);
    const T *old = elements<const T>(before), *cell = elements<const T>(c);
    T *by_c = elements<T>(grad_c), *to = elements<T>(grad_gates);
    for_rows(s.rows, s.width, [=](int64_t first, int64_t last) {
      std::vector<T> masters(2 * s.n);  // the gates, then the gradients by them
      T *ci = masters.data(), *cf = ci + s.n;
      for (int64_t row = first; row < last; ++row) {
        const T *shares = all + row * s.width, *gate = shares + 2 * s.chunks;
        T *by_shares = to + row * s.width, *by_gate = by_shares + 2 * s.chunks;
        spread_masters(shares, s.chunks, s.size, ci, cf);
        for_vectors<T>(s.n, [=](int64_t i, int64_t count) {
          const int64_t at = row * s.n + i;
          const auto load = [=](const T* from) { return Vec<T>::loadu(from, count); };
          const Vec<T> o = load(gate + i), g = load(gate + s.n + i), in = load(gate + 2 * s.n + i);
          const Vec<T> f = load(gate + 3 * s.n + i), input = load(ci + i), forget = load(cf + i), one(1);
          const Vec<T> both = input * forget, keep = forget - both * (one - f), write = input - both * (one - in);
          const Vec<T> tanh_c = hyperbolic_tangent<T>(load(cell + at)), past = load(old + at), out = load(by_h + at);
          const Vec<T> by = load(by_c + at) + out * o * (one - tanh_c * tanh_c);
          const Vec<T> by_keep = by * past, by_write = by * g, by_both = by_keep * (f - one) + by_write * (in - one);
          (out * tanh_c * (o - o * o)).store(by_gate + i, count);
          (by * write * (one - g * g)).store(by_gate + s.n + i, count);
          (by_write * both * (in - in * in)).store(by_gate + 2 * s.n + i, count);
          (by_keep * both * (f - f * f)).store(by_gate + 3 * s.n + i, count);
          (by_write + by_both * forget).store(ci + i, count);
          (by_keep + by_both * input).store(cf + i, count);
          (by * keep).store(by_c + at, count);
        });
        cumax_gradient(ci, shares, s.chunks, s.size, T(-1), by_shares);
        cumax_gradient(cf, shares + s.chunks, s.chunks, s.size, T(1), by_shares + s.chunks);
      }
    });
  });
}

}  // namespace
