// The LSTM's time loop on CPU, and the pointwise work of one step: the operators of lstm_steps.py, fused.
// Shapes: T time steps, B rows, I inputs, H units; everything is contiguous, float32 or float64, and of one type.

#include "widest_vectors.h"  // before any header of torch

#include "cell.h"

namespace {

constexpr int kParts = 2;  // vectors of units in a panel of the backward product

void check(const char* name, const Tensor& tensor, const Tensor& like, Ints shape) {
  if (fits(tensor, like, shape) && tensor.is_contiguous()) return;
  fail("rnncore: expected ", name, " ", shape, " of ", like.scalar_type(), ", contiguous and on the CPU, got ", tensor);
}

// gates [N, 4H] = x [N, I] weight.T + bias, for a weight [4H, I] in panels.
template <typename T>
void project(const T* x, int64_t rows, int64_t inner, int64_t units, const Tensor& packed, const T* bias, T* gates) {
  const T* panels = elements<const T>(packed);
  for (int64_t start = 0; start < rows; start += kRows) {
    const int64_t count = std::min(kRows, rows - start);
    for_panels(packed.size(0), count * packed.size(1), [=](int64_t p) {
      const int64_t unit = p * kLanes<T>, n = lanes<T>(units - unit);
      alignas(64) T sums[kRows * 4 * kLanes<T>];
      for (int64_t part = 0; part < 4 * count; ++part) {
        const Vec<T> first = bias ? Vec<T>::loadu(bias + part % 4 * units + unit, n) : Vec<T>(0);
        first.store(sums + part * kLanes<T>);
      }
      add_product<T, 4>(sums, x + start * inner, count, panels + p * inner * 4 * kLanes<T>, inner);
      for (int64_t part = 0; part < 4 * count; ++part) {
        Vec<T>::loadu(sums + part * kLanes<T>).store(gates + (4 * start + part) * units + unit, n);
      }
    });
  }
}

// One step's units of one panel, for all rows: their gates' sums, then the cell. `left` is h before.
template <typename T>
void forward_panel(int64_t p, int64_t rows, int64_t units, const T* panels, const T* left, const T* before, T* gates,
                   T* h, T* c) {
  const int64_t unit = p * kLanes<T>, n = lanes<T>(units - unit);
  alignas(64) T sums[kRows * 4 * kLanes<T>];
  for (int64_t start = 0; start < rows; start += kRows) {
    const int64_t count = std::min(kRows, rows - start);
    T* row = gates + start * 4 * units + unit;
    for (int64_t part = 0; part < 4 * count; ++part) {
      Vec<T>::loadu(row + part * units, n).store(sums + part * kLanes<T>);
    }
    add_product<T, 4>(sums, left + start * units, count, panels + p * units * 4 * kLanes<T>, units);
    for (int64_t r = 0; r < count; ++r) {
      Vec<T> sum[4];
      for (int gate = 0; gate < 4; ++gate) sum[gate] = Vec<T>::loadu(sums + (4 * r + gate) * kLanes<T>);
      const int64_t at = (start + r) * units + unit;
      cell_forward<T>(sum, row + 4 * r * units, units, before + at, c + at, h + at, n);
    }
  }
}

// All steps: the activated gates, h and c of each. The inputs' part of the gates is computed for some steps at a time,
// which find it in the cache.
std::tuple<Tensor, Tensor, Tensor> lstm_forward(const Tensor& x, const Tensor& weight_ih,
                                                const std::optional<Tensor>& bias, const Tensor& h, const Tensor& c,
                                                const Tensor& weight_hh) {
  expect(x.dim() == 3 && h.dim() == 2, "rnncore: expected x [T, B, I] and h [B, H], got ", x.sizes(), " and ",
         h.sizes());
  const int64_t steps = x.size(0), rows = h.size(0), inner = x.size(2), units = h.size(1), size = rows * units;
  check("x", x, h, {steps, rows, inner}), check("weight_ih", weight_ih, h, {4 * units, inner});
  if (bias) check("bias", *bias, h, {4 * units});
  check("h", h, h, {rows, units}), check("c", c, h, {rows, units}), check("weight_hh", weight_hh, h, {4 * units, units});
  const Tensor gates = empty({steps, rows, 4 * units}, h.scalar_type());
  const Tensor output = empty({steps, rows, units}, h.scalar_type()), cells = empty(output.sizes(), h.scalar_type());
  with_real(h.scalar_type(), "rnncore::lstm_forward", [&]<typename T>() {
    const Tensor packed_ih = gate_panels<T>(weight_ih), packed_hh = gate_panels<T>(weight_hh);
    const T *panels = elements<const T>(packed_hh), *left = elements<const T>(h), *before = elements<const T>(c);
    const T *from = elements<const T>(x), *add = bias ? elements<const T>(*bias) : nullptr;
    T *gate = elements<T>(gates), *out = elements<T>(output), *cell = elements<T>(cells);
    const int64_t together = std::max<int64_t>(1, kRows / std::max<int64_t>(1, rows));
    for (int64_t t = 0; t < steps; ++t, gate += 4 * size, out += size, cell += size) {
      if (t % together == 0) {
        const int64_t count = std::min(together, steps - t) * rows;
        project<T>(from + t * rows * inner, count, inner, units, packed_ih, add, gate);
      }
      for_panels(packed_hh.size(0), rows * packed_hh.size(1),
                 [=](int64_t p) { forward_panel<T>(p, rows, units, panels, left, before, gate, out, cell); });
      left = out, before = cell;
    }
  });
  return {gates, output, cells};
}

// What a step of the backward loop reads and writes. `grad_next` are the gradients by the gates of the step after.
template <typename T>
struct Step {
  const T *gates, *before, *cells, *grad_output, *grad_next;
  T *grad_h, *grad_c, *grad_gates;
};

// One step's units of one panel, for all rows: the gradient by h, then by the gates. Where there is no step after,
// grad_h has that part; where there is no step, the gradient by the first h goes there.
template <typename T>
void backward_panel(int64_t p, int64_t rows, int64_t units, const T* panels, const Step<T>& s) {
  const int64_t unit = p * kParts * kLanes<T>, inner = 4 * units;
  alignas(64) T sums[kRows * kParts * kLanes<T>];
  const auto for_sums = [&](int64_t start, int64_t count, auto body) {
    for (int64_t r = 0; r < count; ++r) {
      for (int c = 0; c < kParts; ++c) {
        const int64_t first = unit + c * kLanes<T>, n = lanes<T>(units - unit, c);
        body(sums + (r * kParts + c) * kLanes<T>, start + r, (start + r) * units + first, first, n);
      }
    }
  };
  for (int64_t start = 0; start < rows; start += kRows) {
    const int64_t count = std::min(kRows, rows - start);
    for_sums(start, count, [&](T* sum, int64_t, int64_t at, int64_t, int64_t n) {
      Vec<T> grad = s.grad_output && n ? Vec<T>::loadu(s.grad_output + at, n) : Vec<T>(0);
      if (!s.grad_next && n) grad = grad + Vec<T>::loadu(s.grad_h + at, n);
      grad.store(sum);
    });
    if (s.grad_next) {
      add_product<T, kParts>(sums, s.grad_next + start * inner, count, panels + p * inner * kParts * kLanes<T>, inner);
    }
    for_sums(start, count, [&](const T* sum, int64_t row, int64_t at, int64_t first, int64_t n) {
      if (!n) return;
      const Vec<T> grad = Vec<T>::loadu(sum);
      if (s.gates) {
        const int64_t gate = row * inner + first;
        cell_backward<T>(grad, s.grad_c + at, s.gates + gate, units, s.before + at, s.cells + at, s.grad_gates + gate,
                         n);
      } else {
        grad.store(s.grad_h + at, n);
      }
    });
  }
}

void lstm_backward(const Tensor& grad_output, const Tensor& gates, const Tensor& c, const Tensor& cells,
                   const Tensor& weight, const Tensor& grad_h, const Tensor& grad_c, const Tensor& grad_gates) {
  const int64_t steps = cells.size(0), rows = c.size(0), units = c.size(1), size = rows * units;
  for (const Tensor* tensor : {&gates, &grad_gates}) check("gates", *tensor, c, {steps, rows, 4 * units});
  for (const Tensor* tensor : {&cells, &grad_output}) check("outputs", *tensor, c, {steps, rows, units});
  for (const Tensor* tensor : {&c, &grad_h, &grad_c}) check("state", *tensor, c, {rows, units});
  check("weight", weight, c, {4 * units, units});
  with_real(c.scalar_type(), "rnncore::lstm_backward", [&]<typename T>() {
    const Tensor packed = unit_panels<T, kParts>(weight);
    const T *panels = elements<const T>(packed), *gate = elements<const T>(gates), *cell = elements<const T>(cells);
    const T *by_output = elements<const T>(grad_output), *next = nullptr;
    T *by_h = elements<T>(grad_h), *by_c = elements<T>(grad_c);
    T* by_gates = elements<T>(grad_gates);
    const auto run = [&](const Step<T>& step) {
      for_panels(packed.size(0), rows * packed.size(1),
                 [&](int64_t p) { backward_panel<T>(p, rows, units, panels, step); });
    };
    for (int64_t t = steps - 1; t >= 0; --t) {
      const int64_t at = t * size;
      T* to = by_gates + 4 * at;
      const T* before = t > 0 ? cell + at - size : elements<const T>(c);
      run({gate + 4 * at, before, cell + at, by_output + at, next, by_h, by_c, to});
      next = to;
    }
    run({nullptr, nullptr, nullptr, nullptr, next, by_h, by_c, nullptr});
  });
}

// Calls body(row, unit, n) for every vector of units of every row, rows in threads.
template <typename T, typename Body>
void for_units(int64_t rows, int64_t units, Body body) {
  parallel_for(0, rows, kGrain / (32 * units) + 1, [&](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t unit = 0; unit < units; unit += kLanes<T>) body(row, unit, lanes<T>(units - unit));
    }
  });
}

void lstm_cell_forward(const Tensor& product, const Tensor& gates, const Tensor& before, const Tensor& c,
                       const Tensor& h) {
  const int64_t rows = before.size(0), units = before.size(1);
  for (const Tensor* tensor : {&product, &gates}) check("gates", *tensor, before, {rows, 4 * units});
  for (const Tensor* tensor : {&before, &c, &h}) check("state", *tensor, before, {rows, units});
  with_real(before.scalar_type(), "rnncore::lstm_cell_forward", [&]<typename T>() {
    const T *from = elements<const T>(product), *last = elements<const T>(before);
    T *gate = elements<T>(gates), *cell = elements<T>(c), *out = elements<T>(h);
    for_units<T>(rows, units, [=](int64_t row, int64_t unit, int64_t n) {
      const int64_t at = row * units + unit, first = row * 4 * units + unit;
      Vec<T> sums[4];
      for (int k = 0; k < 4; ++k) {
        sums[k] = Vec<T>::loadu(gate + first + k * units, n) + Vec<T>::loadu(from + first + k * units, n);
      }
      cell_forward<T>(sums, gate + first, units, last + at, cell + at, out + at, n);
    });
  });
}

void lstm_cell_backward(const Tensor& grad_h, const Tensor& grad_c, const Tensor& gates, const Tensor& before,
                        const Tensor& c, const Tensor& grad_gates) {
  const int64_t rows = before.size(0), units = before.size(1);
  for (const Tensor* tensor : {&gates, &grad_gates}) check("gates", *tensor, before, {rows, 4 * units});
  for (const Tensor* tensor : {&before, &c, &grad_h, &grad_c}) check("state", *tensor, before, {rows, units});
  with_real(before.scalar_type(), "rnncore::lstm_cell_backward", [&]<typename T>() {
    const T *by_h = elements<const T>(grad_h), *gate = elements<const T>(gates);
    const T *last = elements<const T>(before), *cell = elements<const T>(c);
    T *by_c = elements<T>(grad_c), *to = elements<T>(grad_gates);
    for_units<T>(rows, units, [=](int64_t row, int64_t unit, int64_t n) {
      const int64_t at = row * units + unit, first = row * 4 * units + unit;
      cell_backward<T>(Vec<T>::loadu(by_h + at, n), by_c + at, gate + first, units, last + at, cell + at, to + first,
                       n);
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(rnncore, library) {
  define<&lstm_forward>(
      library,
      "lstm_forward(Tensor x, Tensor weight_ih, Tensor? bias, Tensor h, Tensor c, Tensor weight_hh) -> (Tensor, Tensor, "
      "Tensor)");
  define<&lstm_backward>(
      library,
      "lstm_backward(Tensor grad_output, Tensor gates, Tensor c, Tensor cells, Tensor weight, Tensor(a!) grad_h, "
      "Tensor(b!) grad_c, Tensor(c!) grad_gates) -> ()");
  define<&lstm_cell_forward>(
      library, "lstm_cell_forward(Tensor product, Tensor(a!) gates, Tensor before, Tensor(b!) c, Tensor(c!) h) -> ()");
  define<&lstm_cell_backward>(
      library,
      "lstm_cell_backward(Tensor grad_h, Tensor(a!) grad_c, Tensor gates, Tensor before, Tensor c, "
      "Tensor(b!) grad_gates) -> ()");
}
