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

// x [N, I] weight.T + bias, for weight [4H, I].
Tensor lstm_project(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  expect(x.dim() == 2 && weight.dim() == 2 && weight.size(0) % 4 == 0, "rnncore: expected x [N, I] and weight ",
         "[4H, I], got ", x.sizes(), " and ", weight.sizes());
  const int64_t rows = x.size(0), inner = x.size(1), units = weight.size(0) / 4;
  check("x", x, x, {rows, inner}), check("weight", weight, x, {4 * units, inner});
  if (bias) check("bias", *bias, x, {4 * units});
  Tensor gates = empty({rows, 4 * units}, x.scalar_type());
  with_real(x.scalar_type(), "rnncore::lstm_project", [&]<typename T>() {
    const Tensor packed = gate_panels<T>(weight);
    const T *panels = elements<const T>(packed), *left = elements<const T>(x);
    const T* add = bias ? elements<const T>(*bias) : nullptr;
    T* to = elements<T>(gates);
    for (int64_t start = 0; start < rows; start += kRows) {
      const int64_t count = std::min(kRows, rows - start);
      for_panels(packed.size(0), count * packed.size(1), [=](int64_t p) {
        const int64_t unit = p * kLanes<T>, n = lanes<T>(units - unit);
        alignas(64) T sums[kRows * 4 * kLanes<T>];
        for (int64_t part = 0; part < 4 * count; ++part) {
          const Vec<T> first = add ? Vec<T>::loadu(add + part % 4 * units + unit, n) : Vec<T>(0);
          first.store(sums + part * kLanes<T>);
        }
        add_product<T, 4>(sums, left + start * inner, count, panels + p * inner * 4 * kLanes<T>, inner);
        for (int64_t part = 0; part < 4 * count; ++part) {
          Vec<T>::loadu(sums + part * kLanes<T>).store(to + (4 * start + part) * units + unit, n);
        }
      });
    }
  });
  return gates;
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

void lstm_forward(const Tensor& gates, const Tensor& h, const Tensor& c, const Tensor& weight, const Tensor& output,
                  const Tensor& cells) {
  const int64_t steps = output.size(0), rows = h.size(0), units = h.size(1), size = rows * units;
  check("gates", gates, h, {steps, rows, 4 * units}), check("weight", weight, h, {4 * units, units});
  check("h", h, h, {rows, units}), check("c", c, h, {rows, units});
  check("output", output, h, {steps, rows, units}), check("cells", cells, h, {steps, rows, units});
  with_real(h.scalar_type(), "rnncore::lstm_forward", [&]<typename T>() {
    const Tensor packed = gate_panels<T>(weight);
    const T *panels = elements<const T>(packed), *left = elements<const T>(h), *before = elements<const T>(c);
    T *gate = elements<T>(gates), *out = elements<T>(output), *cell = elements<T>(cells);
    for (int64_t t = 0; t < steps; ++t, gate += 4 * size, out += size, cell += size) {
      for_panels(packed.size(0), rows * packed.size(1),
                 [=](int64_t p) { forward_panel<T>(p, rows, units, panels, left, before, gate, out, cell); });
      left = out, before = cell;
    }
  });
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
  define<&lstm_project>(library, "lstm_project(Tensor x, Tensor weight, Tensor? bias) -> Tensor");
  define<&lstm_forward>(
      library,
      "lstm_forward(Tensor(a!) gates, Tensor h, Tensor c, Tensor weight, Tensor(b!) output, Tensor(c!) cells) -> ()");
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
