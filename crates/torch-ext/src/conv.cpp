// Convolutions on the CPU where the output has few cells, as one autograd function of matrix products.
//
// oneDNN's kernels are made for large maps. On one of 2x2 cells they spend more time than the products themselves take, and a
// kernel of 3x3 meets mostly padding there: of 36 pairs of an output cell and a tap, 16 read the input. Here every output cell,
// every input cell (for its gradient) and every tap (for the weight's) is one product of what it really reads, summed in float32.
// What it saves is in docs/benchmarks.md.

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <vector>

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Up to how many output cells products are faster, measured with batches of 64 and 128 in float32 and bfloat16.
constexpr int64_t FEW = 4;
// The same for the gradient of the weight alone.
constexpr int64_t FEW_OF_WEIGHT = 16;
// Pictures from which that is taken to be so; estimated, not measured: the weights are copied for every product, however few
// pictures it has.
constexpr int64_t PICTURES = 32;

// A run of cells or taps along one side.
struct Run {
  int64_t start, length;
};

// One side of a convolution.
struct Side {
  int64_t in, out, kernel, stride, padding;

  Side(int64_t in, int64_t kernel, int64_t stride, int64_t padding)
      : in(in), out((in + 2 * padding - kernel) / stride + 1), kernel(kernel), stride(stride), padding(padding) {}

  // The input cell that an output cell reads by a tap, which may lie in the padding.
  int64_t reads(int64_t cell, int64_t tap) const { return cell * stride - padding + tap; }

  // The taps of an output cell that lie in the input.
  Run taps(int64_t cell) const {
    const int64_t start = std::max<int64_t>(0, -reads(cell, 0));
    return {start, std::min(kernel, in - reads(cell, 0)) - start};
  }

  // The output cells that read an input cell.
  Run readers(int64_t cell) const {
    const int64_t last = std::min(out - 1, (cell + padding) / stride);
    const int64_t before = cell + padding - kernel;  // read by the cell before the first
    const int64_t first = before < 0 ? 0 : before / stride + 1;
    return {first, std::max<int64_t>(0, last - first + 1)};
  }

  // The output cells that read the input by a tap.
  Run cells(int64_t tap) const {
    const int64_t short_of = padding - tap;
    const int64_t first = short_of <= 0 ? 0 : (short_of + stride - 1) / stride;
    const int64_t room = in - 1 + padding - tap;
    const int64_t last = room < 0 ? -1 : std::min(out - 1, room / stride);
    return {first, std::max<int64_t>(0, last - first + 1)};
  }
};

struct Plan {
  Side rows, columns;

  Plan(const at::Tensor &x, const at::Tensor &w, int64_t stride, int64_t padding)
      : rows(x.size(2), w.size(2), stride, padding), columns(x.size(3), w.size(3), stride, padding) {}

  int64_t cells() const { return rows.out * columns.out; }
};

at::Tensor channels_innermost(const at::Tensor &x) { return x.permute({0, 2, 3, 1}).contiguous(); }

at::Tensor cut(const at::Tensor &x, Run rows, Run columns, int64_t dim) {
  return x.narrow(dim, rows.start, rows.length).narrow(dim + 1, columns.start, columns.length);
}

at::Tensor forward_of_few(const at::Tensor &x, const at::Tensor &w, const Plan &plan) {
  auto cells = channels_innermost(x), taps = channels_innermost(w);  // (N, H, W, I), (O, h, w, I)
  const int64_t n = x.size(0), channels = w.size(0);
  auto y = at::empty({n, plan.rows.out, plan.columns.out, channels}, cells.options());
  for (int64_t i = 0; i < plan.rows.out; i++) {
    for (int64_t j = 0; j < plan.columns.out; j++) {
      auto of_row = plan.rows.taps(i), of_column = plan.columns.taps(j);
      Run row{plan.rows.reads(i, of_row.start), of_row.length};
      Run column{plan.columns.reads(j, of_column.start), of_column.length};
      auto seen = cut(cells, row, column, 1).reshape({n, -1});
      auto by = cut(taps, of_row, of_column, 1).reshape({channels, -1});
      y.select(1, i).select(1, j).copy_(at::mm(seen, by.t()));
    }
  }
  return y.permute({0, 3, 1, 2});
}

at::Tensor input_gradient_of_few(const at::Tensor &dy, const at::Tensor &x, const at::Tensor &w, const Plan &plan) {
  auto cells = channels_innermost(dy);             // (N, H, W, O)
  auto taps = w.permute({2, 3, 0, 1}).contiguous();  // (h, w, O, I)
  const int64_t n = x.size(0), channels = x.size(1);
  auto dx = at::zeros({n, plan.rows.in, plan.columns.in, channels}, cells.options());
  for (int64_t i = 0; i < plan.rows.in; i++) {
    for (int64_t j = 0; j < plan.columns.in; j++) {
      auto row = plan.rows.readers(i), column = plan.columns.readers(j);
      if (row.length == 0 || column.length == 0) continue;
      std::vector<at::Tensor> by;
      for (int64_t a = row.start; a < row.start + row.length; a++) {
        for (int64_t b = column.start; b < column.start + column.length; b++) {
          by.push_back(taps.select(0, i - plan.rows.reads(a, 0)).select(0, j - plan.columns.reads(b, 0)));
        }
      }
      auto from = cut(cells, row, column, 1).reshape({n, -1});
      dx.select(1, i).select(1, j).copy_(at::mm(from, at::cat(by)));
    }
  }
  return dx.permute({0, 3, 1, 2});
}

at::Tensor weight_gradient_of_few(const at::Tensor &dy, const at::Tensor &x, const at::Tensor &w, const Plan &plan) {
  auto from = channels_innermost(dy), cells = channels_innermost(x);
  auto dw = at::zeros({w.size(2), w.size(3), w.size(0), w.size(1)}, cells.options());
  auto read = [](const at::Tensor &of, const Side &side, int64_t dim, Run run, int64_t tap) {
    const int64_t first = side.reads(run.start, tap);
    return of.slice(dim, first, first + (run.length - 1) * side.stride + 1, side.stride);
  };
  for (int64_t i = 0; i < w.size(2); i++) {
    for (int64_t j = 0; j < w.size(3); j++) {
      auto row = plan.rows.cells(i), column = plan.columns.cells(j);
      if (row.length == 0 || column.length == 0) continue;
      auto seen = read(read(cells, plan.rows, 1, row, i), plan.columns, 2, column, j).reshape({-1, x.size(1)});
      auto given = cut(from, row, column, 1).reshape({-1, w.size(0)});
      dw.select(0, i).select(0, j).copy_(at::mm(given.t(), seen));
    }
  }
  return dw.permute({2, 3, 0, 1});
}

struct Convolution : torch::autograd::Function<Convolution> {
  static at::Tensor forward(AutogradContext *ctx, const at::Tensor &x, const at::Tensor &w, int64_t stride,
                            int64_t padding) {
    ctx->save_for_backward({x, w});
    ctx->saved_data["stride"] = stride;
    ctx->saved_data["padding"] = padding;
    Plan plan(x, w, stride, padding);
    if (plan.cells() <= FEW) return forward_of_few(x, w, plan);
    return at::conv2d(x, w, {}, stride, padding);
  }

  static variable_list backward(AutogradContext *ctx, variable_list gradients) {
    auto saved = ctx->get_saved_variables();
    auto &x = saved[0], &w = saved[1];
    const int64_t stride = ctx->saved_data["stride"].toInt(), padding = ctx->saved_data["padding"].toInt();
    Plan plan(x, w, stride, padding);
    auto &dy = gradients[0];
    at::Tensor dx;
    if (ctx->needs_input_grad(0)) {
      dx = plan.cells() <= FEW
               ? input_gradient_of_few(dy, x, w, plan)
               : std::get<0>(at::convolution_backward(dy, x, w, {}, {stride, stride}, {padding, padding}, {1, 1}, false,
                                                      {0, 0}, 1, {true, false, false}));
    }
    at::Tensor dw;
    if (ctx->needs_input_grad(1)) dw = weight_gradient_of_few(dy, x, w, plan);
    return {dx, dw, {}, {}};
  }
};

// As autocast's own wrapper of a convolution does.
at::Tensor cast(const at::Tensor &x) {
  if (!at::autocast::is_autocast_enabled(at::kCPU)) return x;
  return at::autocast::cached_cast(at::autocast::get_autocast_dtype(at::kCPU), x, at::kCPU);
}

}  // namespace

extern "C" char *occlude_conv2d(const at::Tensor *x, const at::Tensor *w, int64_t stride, int64_t padding,
                                at::Tensor **out) {
  try {
    const bool few = x->device().is_cpu() && x->dim() == 4 && w->dim() == 4 && x->size(1) == w->size(1) &&
                     x->size(0) >= PICTURES && stride > 0 && padding >= 0 &&
                     x->size(2) + 2 * padding >= w->size(2) && x->size(3) + 2 * padding >= w->size(3) &&
                     padding < w->size(2) && padding < w->size(3) &&
                     Plan(*x, *w, stride, padding).cells() <= FEW_OF_WEIGHT;
    auto y = few ? Convolution::apply(cast(*x), cast(*w), stride, padding) : at::conv2d(*x, *w, {}, stride, padding);
    *out = new at::Tensor(std::move(y));
    return nullptr;
  } catch (const std::exception &e) {
    return strdup(e.what());
  }
}
