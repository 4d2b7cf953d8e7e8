// What all operators share: tensors, by torch's stable interface, whose headers compile several times faster than
// ATen's; the types of elements; checks; registration.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;
using torch::headeronly::ScalarType;
using torch::stable::get_num_threads;
using torch::stable::parallel_for;
using torch::stable::Tensor;
using Ints = torch::headeronly::IntHeaderOnlyArrayRef;

template <typename T>
constexpr ScalarType kType = torch::headeronly::CppTypeToScalarType<T>::value;

// What elements of a type are computed in.
template <typename T>
using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline ScalarType real_type(ScalarType type) { return type == ScalarType::Double ? type : ScalarType::Float; }

inline std::ostream& operator<<(std::ostream& to, Ints numbers) {
  to << '[';
  for (size_t i = 0; i < numbers.size(); ++i) to << (i ? ", " : "") << numbers[i];
  return to << ']';
}

inline std::ostream& operator<<(std::ostream& to, const Tensor& tensor) {
  return to << tensor.sizes() << " of " << tensor.scalar_type();
}

// Throws what Python sees as a RuntimeError with a message of these parts.
template <typename... Parts>
[[noreturn, gnu::noinline]] void fail(const Parts&... parts) {
  std::ostringstream message;
  ((message << parts), ...);
  throw std::runtime_error(message.str());
}

template <typename... Parts>
inline void expect(bool holds, const Parts&... parts) {
  if (!holds) [[unlikely]] fail(parts...);
}

// The number that torch's interface has for a type: to ask it for a ScalarType costs many times as much.
inline int32_t code_of(ScalarType type) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
}

inline int32_t code_of(const Tensor& tensor) {
  int32_t code = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &code));
  return code;
}

// Whether a tensor is on the CPU, of a type, or of another tensor's, and of a shape.
template <typename Like>
bool fits(const Tensor& tensor, const Like& like, Ints shape) {
  return tensor.is_cpu() && code_of(tensor) == code_of(like) && tensor.sizes().equals(shape);
}

// A tensor's elements, to read or to write, if T is their type.
template <typename T>
T* elements(const Tensor& tensor) {
  using Element = std::remove_const_t<T>;
  expect(code_of(tensor) == code_of(kType<Element>), "expected a tensor of ", kType<Element>, ", got ", tensor);
  if constexpr (std::is_const_v<T>) {
    return static_cast<T*>(tensor.const_data_ptr());
  } else {
    return static_cast<T*>(tensor.mutable_data_ptr());
  }
}

// body<T>() for the T among the types; `name` is that of the operator.
template <typename... Types, typename Body>
void with_type(ScalarType type, const char* name, Body body) {
  const bool known = ((type == kType<Types> && (body.template operator()<Types>(), true)) || ...);
  expect(known, '"', name, "\" not implemented for '", type, "'");
}

template <typename Body>
void with_real(ScalarType type, const char* name, Body body) {
  with_type<float, double>(type, name, body);
}

// A new tensor on the CPU, by a plain function: operators are looked up by their names at every call.
inline Tensor empty(Ints shape, ScalarType type) {
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t i = shape.size(); i-- > 0; stride *= std::max<int64_t>(shape[i], 1)) strides[i] = stride;
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(shape.size(), shape.data(), strides.data(), code_of(type),
                                                  aoti_torch_device_type_cpu(), 0, &made));
  return Tensor(made);
}

inline Tensor zeros(Ints shape, ScalarType type) {
  Tensor made = empty(shape, type);
  std::memset(made.mutable_data_ptr(), 0, made.numel() * made.element_size());
  return made;
}

inline Tensor copy_of(const Tensor& tensor) {
  expect(tensor.is_contiguous(), "expected a contiguous tensor, got strides ", tensor.strides());
  Tensor made = empty(tensor.sizes(), tensor.scalar_type());
  std::memcpy(made.mutable_data_ptr(), tensor.const_data_ptr(), made.numel() * made.element_size());
  return made;
}

// Calls a function with arguments from a stack of torch's and puts its results there. It does what TORCH_BOX does, but
// that makes a tuple of the arguments, which takes longer both to compile and to run.
template <auto function>
struct Boxed;

template <typename Result, typename... Arguments, Result (*function)(Arguments...)>
struct Boxed<function> {
  static void call(StableIValue* stack, uint64_t given, uint64_t) {
    expect(given == sizeof...(Arguments), "a schema of ", given, " arguments for a function of ", sizeof...(Arguments));
    run(stack, std::index_sequence_for<Arguments...>());
  }

 private:
  template <size_t... place>
  static void run(StableIValue* stack, std::index_sequence<place...>) {
    using torch::stable::detail::to;
    if constexpr (std::is_void_v<Result>) {
      function(to<std::remove_cvref_t<Arguments>>(stack[place])...);
    } else {
      put(stack, function(to<std::remove_cvref_t<Arguments>>(stack[place])...));
    }
  }

  static void put(StableIValue* stack, const Tensor& result) { *stack = torch::stable::detail::from(result); }
  template <typename... Parts>
  static void put(StableIValue* stack, const std::tuple<Parts...>& results) {
    std::apply([&](const Parts&... parts) { ((*stack++ = torch::stable::detail::from(parts)), ...); }, results);
  }
};

// Registers an operator: for tensors anywhere, so that its own checks speak, and with no gradient.
template <auto function>
void define(torch::stable::detail::StableLibrary& library, const std::string& schema) {
  library.def(schema.c_str()).impl(schema.substr(0, schema.find('(')).c_str(), &Boxed<function>::call);
}

}  // namespace
