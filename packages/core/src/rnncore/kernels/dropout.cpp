// Weights with elements dropped at random, and their gradient: the operators of dropout.py, each one pass.

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <tuple>

namespace {

using at::Tensor;

constexpr int64_t kPart = 1 << 12;  // elements at a time

// Words of NumPy's SFC64 from its state a, b, c, counter (Doty-Humphrey's generator of PractRand).
Tensor random_words(at::IntArrayRef state, int64_t count) {
  TORCH_CHECK(state.size() == 4, "rnncore: expected four words of state");
  std::array<uint64_t, 4> s;
  for (int i = 0; i < 4; ++i) s[i] = static_cast<uint64_t>(state[i]);
  auto [a, b, c, counter] = s;
  Tensor words = at::empty({count}, at::kLong);
  uint64_t* to = reinterpret_cast<uint64_t*>(words.mutable_data_ptr<int64_t>());
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t next = a + b + counter++;
    a = b ^ (b >> 11);
    b = c + (c << 3);
    c = ((c << 24) | (c >> 40)) + next;
    to[i] = next;
  }
  return words;
}

// body(first, n) for parts of a tensor in threads, each small enough for the first cache.
template <typename Body>
void for_parts(int64_t size, Body body) {
  at::parallel_for(0, (size + kPart - 1) / kPart, 8, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) body(part * kPart, std::min(kPart, size - part * kPart));
  });
}

template <typename T>
void scale_kept(const T* from, const uint8_t* kept, T scale, T* to, int64_t n) {
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    const T value = scale * from[i];
    to[i] = kept[i] ? value : T(0);
  }
}

template <typename Draw, typename T>
void drop(const Draw* draws, int64_t last_kept, const T* weight, T scale, T* dropped, uint8_t* kept, int64_t n) {
  const Draw most = static_cast<Draw>(last_kept);
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) kept[i] = draws[i] <= most;
  scale_kept(weight, kept, scale, dropped, n);
}

// The weight times `scale` where a draw of `bits` bits is at most `last_kept`, else 0; and where that is, 0 or 1.
std::tuple<Tensor, Tensor> drop_weight(const Tensor& weight, at::IntArrayRef state, int64_t bits, int64_t last_kept,
                                       double scale) {
  TORCH_CHECK(weight.device().is_cpu() && weight.is_contiguous() && (bits == 8 || bits == 16),
              "rnncore: expected a weight that is contiguous and on the CPU, and 8 or 16 bits");
  const int64_t n = weight.numel();
  const Tensor words = random_words(state, (n * bits + 63) / 64);
  Tensor dropped = at::empty_like(weight), kept = at::empty(weight.sizes(), at::kByte);
  AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "rnncore::drop_weight", [&] {
    const auto run = [&](const auto* draws) {
      const scalar_t* from = weight.const_data_ptr<scalar_t>();
      scalar_t* to = dropped.mutable_data_ptr<scalar_t>();
      uint8_t* keep = kept.mutable_data_ptr<uint8_t>();
      for_parts(n, [&](int64_t first, int64_t count) {
        drop(draws + first, last_kept, from + first, static_cast<scalar_t>(scale), to + first, keep + first, count);
      });
    };
    const void* draws = words.const_data_ptr();
    bits == 8 ? run(static_cast<const int8_t*>(draws)) : run(static_cast<const int16_t*>(draws));
  });
  return {dropped, kept};
}

// The gradient times `scale` where `kept` is 1, else 0.
Tensor drop_gradient(const Tensor& grad, const Tensor& kept, double scale) {
  TORCH_CHECK(grad.device().is_cpu() && grad.is_contiguous() && kept.scalar_type() == at::kByte &&
                  kept.is_contiguous() && kept.sizes() == grad.sizes(),
              "rnncore: expected a gradient that is contiguous and on the CPU, and what was kept of its shape");
  Tensor result = at::empty_like(grad);
  AT_DISPATCH_FLOATING_TYPES(grad.scalar_type(), "rnncore::drop_gradient", [&] {
    const scalar_t* from = grad.const_data_ptr<scalar_t>();
    const uint8_t* keep = kept.const_data_ptr<uint8_t>();
    scalar_t* to = result.mutable_data_ptr<scalar_t>();
    for_parts(grad.numel(), [&](int64_t first, int64_t count) {
      scale_kept(from + first, keep + first, static_cast<scalar_t>(scale), to + first, count);
    });
  });
  return result;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(rnncore, library) {
  library.def(
      "drop_weight(Tensor weight, int[] state, int bits, int last_kept, float scale) -> (Tensor, Tensor)",
      &drop_weight);
  library.def("drop_gradient(Tensor grad, Tensor kept, float scale) -> Tensor", &drop_gradient);
}
