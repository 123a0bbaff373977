#include "dual.hpp"

#include <ATen/ATen.h>

#include "idistill/model/kernels.hpp"
#include "idistill/model/precision.hpp"

namespace idistill::model {
namespace {

using torch::Tensor;

/// x (strided rows x heads head_dim) as (rows heads x head_dim).
Dual heads_of(const Dual& x, std::int64_t head_dim) {
    return {x.value.reshape({-1, head_dim}), x.tangent.reshape({-1, head_dim})};
}

Dual widened(const Dual& x) { return {model::widened(x.value), model::widened(x.tangent)}; }

}  // namespace

Dual columns(const Dual& x, std::int64_t first, std::int64_t count) {
    return {x.value.narrow(1, first, count), x.tangent.narrow(1, first, count)};
}

Dual take_rows(const Dual& x, const RowSubset& rows) { return {take_rows(x.value, rows), take_rows(x.tangent, rows)}; }

Dual put_rows(const Dual& like, const Dual& x, const RowSubset& rows) {
    return {put_rows(like.value, x.value, rows), put_rows(like.value, x.tangent, rows)};
}

Dual copied(const Dual& x) { return {x.value.clone(), x.tangent.clone()}; }

void add_(const Dual& x, const Dual& y) {
    x.value.add_(y.value);
    x.tangent.add_(y.tangent);
}

Dual linear(const Dual& x, const Linear& layer, const Tensor& direction) {
    Dual y{linear(x.value, layer), at::mm(x.tangent, layer.weight.t())};
    if (direction.defined()) y.tangent.addmm_(x.value, direction.t());
    return y;
}

Dual linear_backward(const Dual& gradient_y, const Tensor& weight, const Tensor& direction) {
    Dual gradient{at::mm(gradient_y.value, weight), at::mm(gradient_y.tangent, weight)};
    if (direction.defined()) gradient.tangent.addmm_(gradient_y.value, direction);
    return gradient;
}

Dual attend(const ModelConfig& config, const QueryKeyValue<Dual>& heads, const PackedBatch& batch,
            const RowSubset& rows) {
    const auto stack = [](const Dual& x) { return at::cat({x.value, x.tangent}); };
    const auto both = attention_with_tangents(config, {stack(heads.q), stack(heads.k), stack(heads.v)}, batch, rows, 1);
    return {both.narrow(0, 0, rows.rows()), both.narrow(0, rows.rows(), rows.rows())};
}

QueryKeyValue<Dual> attend_backward(const ModelConfig& config, const QueryKeyValue<Dual>& heads,
                                    const PackedBatch& batch, const RowSubset& rows, const Dual& gradient) {
    const auto both = attention_backward_tangent(config, {heads.q.value, heads.k.value, heads.v.value},
                                                 {heads.q.tangent, heads.k.tangent, heads.v.tangent}, batch, rows,
                                                 gradient.value, gradient.tangent);
    return {{both.value.q, both.tangent.q}, {both.value.k, both.tangent.k}, {both.value.v, both.tangent.v}};
}

Dual qkv_backward(const DirectedBlock& block, const QueryKeyValue<Dual>& g, const RowSubset& rows) {
    const auto part_backward = [&block](const Dual& gradient, std::int64_t first) {
        const auto count = gradient.value.size(1);
        return linear_backward(gradient, block.weights.qkv.weight.narrow(0, first, count),
                               block.qkv_part(first, count));
    };
    const auto gradient = part_backward(g.k, block.query_width());
    add_(gradient, part_backward(g.v, block.query_width() + block.key_width()));
    const auto of_queries = part_backward(g.q, 0);
    if (!rows.index.defined()) {
        add_(gradient, of_queries);
        return gradient;
    }
    gradient.value.index_add_(0, rows.index, of_queries.value);
    gradient.tangent.index_add_(0, rows.index, of_queries.tangent);
    return gradient;
}

Dual rms_norm(const Dual& x, const Tensor& weight, double epsilon) {
    Dual y{rms_norm(x.value, weight, epsilon), at::empty_like(x.value)};
    rms_norm_tangent(y.tangent, x.value, weight, epsilon, x.tangent, {});
    return y;
}

// With s = (mean x^2 + epsilon)^-1/2, u = weight o gradient_y and m = mean(x o u) the gradient is s u - s^3 m x.
void rms_norm_backward_(const Dual& gradient_x, const Dual& narrow_x, const Tensor& narrow_weight, double epsilon,
                        const Dual& gradient_y) {
    auto value = gradient_x.value;
    rms_norm_backward_(value, narrow_x.value, narrow_weight, epsilon, gradient_y.value);
    const auto x = widened(narrow_x);
    const auto weight = widened(narrow_weight);
    const auto mean = [](const Tensor& values) { return values.mean(-1, true); };
    const auto s = (mean(x.value.square()) + epsilon).rsqrt();
    const auto s_tangent = -s.pow(3) * mean(x.value * x.tangent);
    const auto u = weight * gradient_y.value;
    const auto u_tangent = weight * gradient_y.tangent;
    const auto m = mean(x.value * u);
    const auto m_tangent = mean(x.tangent * u + x.value * u_tangent);
    const auto tangent = widened(gradient_x.tangent);
    tangent.add_(s_tangent * u)
        .add_(s * u_tangent)
        .sub_(s.pow(3) * m * x.tangent)
        .sub_(s.square() * (3.0 * s_tangent * m + s * m_tangent) * x.value);
    if (!tangent.is_same(gradient_x.tangent)) gradient_x.tangent.copy_(tangent);
}

Dual norm_heads(const Dual& x, const Tensor& weight, double epsilon) {
    const auto y = rms_norm(heads_of(x, weight.size(0)), weight, epsilon);
    return {y.value.view(x.value.sizes()), y.tangent.view(x.value.sizes())};
}

Dual norm_heads_backward(const Dual& raw, const Tensor& weight, double epsilon, const Dual& gradient) {
    const auto heads = heads_of(raw, weight.size(0));
    const Dual result{at::zeros_like(heads.value), at::zeros_like(heads.value)};
    rms_norm_backward_(result, heads, weight, epsilon, heads_of(gradient, weight.size(0)));
    return {result.value.view(raw.value.sizes()), result.tangent.view(raw.value.sizes())};
}

Dual swiglu(const Dual& gate_up) {
    Dual y{swiglu(gate_up.value), {}};
    y.tangent = at::empty_like(y.value);
    swiglu_tangent(y.tangent, gate_up.value, gate_up.tangent);
    return y;
}

// silu' = S (1 + gate (1 - S)), silu'' = S (1 - S) (2 + gate (1 - 2 S)), S the sigmoid.
Dual swiglu_backward(const Dual& gate_up, const Dual& gradient_y) {
    const auto width = gate_up.value.size(1) / 2;
    const auto gate = widened(columns(gate_up, 0, width));
    const auto up = widened(columns(gate_up, width, width));
    const auto s = at::sigmoid(gate.value);
    const auto first = s * (1 + gate.value * (1 - s));
    const auto second = s * (1 - s) * (2 + gate.value * (1 - 2 * s));
    const auto gate_tangent = (gradient_y.tangent * up.value + gradient_y.value * up.tangent) * first +
                              gradient_y.value * up.value * second * gate.tangent;
    const auto up_tangent = gradient_y.tangent * gate.value * s + gradient_y.value * first * gate.tangent;
    return {swiglu_backward(gate_up.value, gradient_y.value),
            at::cat({gate_tangent, up_tangent}, 1).to(gate_up.value.scalar_type())};
}

void rotate_(const Dual& x, std::int64_t head_dim, const Decoder::Rotation& rotation, bool forward) {
    rotate_(x.value, head_dim, rotation.cosine, rotation.sine, forward);
    rotate_(x.tangent, head_dim, rotation.cosine, rotation.sine, forward);
}

}  // namespace idistill::model
