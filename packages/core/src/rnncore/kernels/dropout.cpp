// Weights with elements dropped at random, and their gradient: the operators of dropout.py, each one pass.

#include <array>

#include "tensors.h"

namespace {

constexpr int64_t kPart = 1 << 12;  // elements at a time

// Words of NumPy's SFC64 from its state a, b, c, counter (Doty-Humphrey's generator of PractRand).
Tensor random_words(const std::vector<int64_t>& state, int64_t count) {
  expect(state.size() == 4, "rnncore: expected four words of state");
  std::array<uint64_t, 4> s;
  for (int i = 0; i < 4; ++i) s[i] = static_cast<uint64_t>(state[i]);
  auto [a, b, c, counter] = s;
  Tensor words = empty({count}, ScalarType::Long);
  uint64_t* to = reinterpret_cast<uint64_t*>(elements<int64_t>(words));
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
  parallel_for(0, (size + kPart - 1) / kPart, 8, [&](int64_t first, int64_t last) {
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
std::tuple<Tensor, Tensor> drop_weight(const Tensor& weight, const std::vector<int64_t>& state, int64_t bits,
                                       int64_t last_kept, double scale) {
  expect(weight.is_cpu() && weight.is_contiguous() && (bits == 8 || bits == 16),
         "rnncore: expected a weight that is contiguous and on the CPU, and 8 or 16 bits");
  const int64_t n = weight.numel();
  const Tensor words = random_words(state, (n * bits + 63) / 64);
  Tensor dropped = empty(weight.sizes(), weight.scalar_type()), kept = empty(weight.sizes(), ScalarType::Byte);
  with_real(weight.scalar_type(), "rnncore::drop_weight", [&]<typename T>() {
    const auto run = [&](const auto* draws) {
      const T* from = elements<const T>(weight);
      T* to = elements<T>(dropped);
      uint8_t* keep = elements<uint8_t>(kept);
      for_parts(n, [&](int64_t first, int64_t count) {
        drop(draws + first, last_kept, from + first, static_cast<T>(scale), to + first, keep + first, count);
      });
    };
    const void* draws = words.const_data_ptr();
    bits == 8 ? run(static_cast<const int8_t*>(draws)) : run(static_cast<const int16_t*>(draws));
  });
  return {dropped, kept};
}

// The gradient times `scale` where `kept` is 1, else 0.
Tensor drop_gradient(const Tensor& grad, const Tensor& kept, double scale) {
  expect(grad.is_cpu() && grad.is_contiguous() && kept.scalar_type() == ScalarType::Byte && kept.is_contiguous() &&
             kept.sizes().equals(grad.sizes()),
         "rnncore: expected a gradient that is contiguous and on the CPU, and what was kept of its shape");
  Tensor result = empty(grad.sizes(), grad.scalar_type());
  with_real(grad.scalar_type(), "rnncore::drop_gradient", [&]<typename T>() {
    const T* from = elements<const T>(grad);
    const uint8_t* keep = elements<const uint8_t>(kept);
    T* to = elements<T>(result);
    for_parts(grad.numel(), [&](int64_t first, int64_t count) {
      scale_kept(from + first, keep + first, static_cast<T>(scale), to + first, count);
    });
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(rnncore, library) {
  define<&drop_weight>(
      library, "drop_weight(Tensor weight, int[] state, int bits, int last_kept, float scale) -> (Tensor, Tensor)");
  define<&drop_gradient>(library, "drop_gradient(Tensor grad, Tensor kept, float scale) -> Tensor");
}
