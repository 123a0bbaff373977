#include "idistill/influence/gradient/hessian.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "idistill/influence/gradient/passes.hpp"
#include "idistill/model/micro_batches.hpp"
#include "idistill/model/precision.hpp"

namespace idistill::influence {
namespace {

using torch::Tensor;

constexpr std::int64_t block = std::int64_t{1} << 16;  // numbers of a vector that are in fp64 at a time

/// Calls body(first, count) for blocks of a vector of `size` numbers.
template <class Body>
void for_each_block(std::int64_t size, Body&& body) {
    for (std::int64_t first = 0; first < size; first += block) body(first, std::min(block, size - first));
}

Tensor doubles(const Tensor& x) { return x.to(torch::kFloat64); }

/// (n) products of the rows of `basis` (n x d) with x, fp64, added in block order.
Tensor coefficients(const Tensor& basis, const Tensor& x) {
    auto sums = at::zeros({basis.size(0)}, at::TensorOptions().dtype(torch::kFloat64));
    for_each_block(x.size(0), [&](std::int64_t first, std::int64_t count) {
        sums.add_(at::mv(doubles(basis.narrow(1, first, count)), doubles(x.narrow(0, first, count))));
    });
    return sums;
}

/// x += basis' c, c (n, fp64).
void add_combination(const Tensor& basis, const Tensor& c, Tensor& x) {
    for_each_block(x.size(0), [&](std::int64_t first, std::int64_t count) {
        auto part = x.narrow(0, first, count);
        part.copy_(doubles(part).addmv_(doubles(basis.narrow(1, first, count)).t(), c));
    });
}

/// Takes the parts along the rows of `basis` out of x; twice, as the first time leaves what rounding made of large
/// parts. Returns them.
Tensor orthogonalise(const Tensor& basis, Tensor& x) {
    auto parts = coefficients(basis, x);
    add_combination(basis, -parts, x);
    const auto rest = coefficients(basis, x);
    add_combination(basis, -rest, x);
    return parts.add_(rest);
}

double norm_of(const Tensor& x) { return std::sqrt(product_of(x, x)); }

/// The columns of `basis` (n x d) become those of rotation (n x n, fp64) times them, in place.
void rotate_rows(const Tensor& rotation, const Tensor& basis) {
    for_each_block(basis.size(1), [&](std::int64_t first, std::int64_t count) {
        auto part = basis.narrow(1, first, count);
        part.copy_(at::mm(rotation, doubles(part)));
    });
}

}  // namespace

void add_hessian_products(const model::Decoder& decoder, const model::ChosenLayers& chosen,
                          const data::Samples& samples, const Tensor& scale, const std::vector<Tensor>& v,
                          std::int64_t batch_tokens, std::vector<Tensor>& sums) {
    const auto scale_here = scale.to(model::accumulating(decoder.options()));
    std::vector<Tensor> directions;
    for (const auto& own : v) directions.push_back(own.to(decoder.options()));
    const auto body = [&](const std::vector<std::int64_t>& members, model::Additions& additions) {
        const auto batch = model::pack_with_labels(decoder, samples, members);
        model::loss_gradient_tangents(
            decoder, batch, chosen, directions,
            [&](const model::TangentTap& tap) {
                auto& sum = sums[tap.layer];
                additions([&] { model::add_product_(sum, tap.output_gradient_tangent.t(), tap.input); });
                additions([&] { model::add_product_(sum, tap.output_gradient.t(), tap.input_tangent); });
            },
            scale_here.index_select(0, model::on_device(members, scale_here.device())));
    };
    model::add_each_micro_batch(micro_batches(samples, batch_tokens), body);
}

double product_of(const Tensor& x, const Tensor& y) { return coefficients(x.unsqueeze(0), y).item<double>(); }

RitzPairs lanczos(const std::function<Tensor(std::int64_t, const Tensor&)>& product, Tensor start, std::int64_t count) {
    // What rounding leaves of a vector that is no new direction, of one whose length is 1.
    const double noise = start.scalar_type() == torch::kFloat64 ? 1e-12 : 1e-5;
    RitzPairs pairs{std::vector<double>(static_cast<std::size_t>(count), 0.0),
                    at::zeros({count, start.size(0)}, start.options())};
    auto projected = at::zeros({count, count}, at::TensorOptions().dtype(torch::kFloat64));
    auto next = std::move(start);
    std::int64_t steps = 0;
    double largest = 0.0;
    double beta = norm_of(next);
    while (steps < count && beta > noise * (steps == 0 ? 0.0 : largest)) {
        auto v = pairs.vector.select(0, steps);
        v.copy_(next.div_(beta));
        next.reset();  // a vector can be as long as the model
        next = product(steps, v);
        ++steps;
        const auto parts = orthogonalise(pairs.vector.narrow(0, 0, steps), next);
        projected.select(0, steps - 1).narrow(0, 0, steps).copy_(parts);
        largest = std::max(largest, parts.abs().max().item<double>());
        beta = norm_of(next);
    }
    if (steps == 0) return pairs;
    // V' H V, which is tridiagonal but for rounding.
    const auto lower = projected.narrow(0, 0, steps).narrow(1, 0, steps).tril();
    const auto [values, vectors] = at::linalg_eigh(lower + lower.tril(-1).t());
    const auto order = at::argsort(values.abs(), 0, true);
    auto rotation = vectors.index_select(1, order).t();
    // Signs that no machine chooses differently: along the start.
    const auto along = rotation.select(1, 0);
    rotation = rotation * at::where(along.lt(0), -1.0, 1.0).to(rotation.options()).unsqueeze(1);
    rotate_rows(rotation, pairs.vector.narrow(0, 0, steps));
    const auto sorted = values.index_select(0, order);
    std::copy_n(sorted.const_data_ptr<double>(), steps, pairs.value.begin());
    return pairs;
}

}  // namespace idistill::influence
