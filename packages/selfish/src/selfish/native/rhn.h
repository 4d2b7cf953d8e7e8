// One highway step of a recurrent highway network and its gradient, as in eager.py. Blocks of a row of gates are h, t
// and, uncoupled, c, of n units each.
#pragma once
#include "rows.h"

namespace {

void rhn_forward(const Tensor& product, const Tensor& addend, const Tensor& before, const Tensor& gates,
                 const Tensor& after) {
  const int64_t rows = before.size(0), n = before.size(1), blocks = gates.size(-1) / std::max<int64_t>(n, 1);
  const int64_t width = blocks * n, stride = addend.dim() == 2 ? width : 0;
  expect(blocks == 2 || blocks == 3, "selfish: expected 2 or 3 blocks of gates, got ", blocks);
  check("product", product, before, {rows, width}), check("gates", gates, before, {rows, width});
  check("before", before, before, {rows, n}), check("after", after, before, {rows, n});
  if (stride) {
    check("addend", addend, before, {rows, width});
  } else {
    check("addend", addend, before, {width});
  }
  with_real(before.scalar_type(), "selfish::rhn_forward", [&]<typename T>() {
    const T *from = elements<const T>(product), *add = elements<const T>(addend), *old = elements<const T>(before);
    T *gate = elements<T>(gates), *now = elements<T>(after);
    for_rows(rows, width, [=](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        for_vectors<T>(n, [=](int64_t i, int64_t count) {
          const auto sum = [=](int64_t block) {
            const int64_t at = block * n + i;
            return Vec<T>::loadu(from + row * width + at, count) + Vec<T>::loadu(add + row * stride + at, count);
          };
          T* to = gate + row * width + i;
          const Vec<T> h = hyperbolic_tangent<T>(sum(0)), t = sigmoid<T>(sum(1)),
                       s = Vec<T>::loadu(old + row * n + i, count);
          Vec<T> c = Vec<T>(1) - t;
          if (blocks == 3) c = sigmoid<T>(sum(2)), c.store(to + 2 * n, count);
          h.store(to, count), t.store(to + n, count);
          (h * t + s * c).store(now + row * n + i, count);
        });
      }
    });
  });
}

void rhn_backward(const Tensor& grad, const Tensor& gates, const Tensor& before, const Tensor& grad_gates) {
  const int64_t rows = before.size(0), n = before.size(1), blocks = gates.size(-1) / std::max<int64_t>(n, 1);
  const int64_t width = blocks * n;
  expect(blocks == 2 || blocks == 3, "selfish: expected 2 or 3 blocks of gates, got ", blocks);
  check("gates", gates, before, {rows, width}), check("grad_gates", grad_gates, before, {rows, width});
  check("before", before, before, {rows, n}), check("grad", grad, before, {rows, n});
  with_real(before.scalar_type(), "selfish::rhn_backward", [&]<typename T>() {
    const T *gate = elements<const T>(gates), *old = elements<const T>(before);
    T *by = elements<T>(grad), *to = elements<T>(grad_gates);
    for_rows(rows, width, [=](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        for_vectors<T>(n, [=](int64_t i, int64_t count) {
          const int64_t at = row * width + i;
          const Vec<T> one(1), h = Vec<T>::loadu(gate + at, count), t = Vec<T>::loadu(gate + at + n, count);
          const Vec<T> s = Vec<T>::loadu(old + row * n + i, count), g = Vec<T>::loadu(by + row * n + i, count);
          const Vec<T> c = blocks == 3 ? Vec<T>::loadu(gate + at + 2 * n, count) : one - t;
          (g * t * (one - h * h)).store(to + at, count);
          (g * (blocks == 3 ? h : h - s) * (t - t * t)).store(to + at + n, count);
          if (blocks == 3) (g * s * (c - c * c)).store(to + at + 2 * n, count);
          (g * c).store(by + row * n + i, count);
        });
      }
    });
  });
}

}  // namespace
