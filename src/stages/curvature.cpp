// Curvature of the target loss, after the targets' labels: r products of its Hessian, each the sum of the units that
// the ranks compute side by side.

#include "curvature.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "idistill/comm/ordered_sum.hpp"
#include "idistill/influence/hessian.hpp"
#include "idistill/model/random.hpp"
#include "idistill/report/error.hpp"
#include "labelled.hpp"
#include "labels.hpp"

namespace idistill::stages {
namespace {

using torch::Tensor;

std::span<float> values(const Tensor& tensor) {
    return {tensor.mutable_data_ptr<float>(), static_cast<std::size_t>(tensor.numel())};
}

/// Weight of each place's loss in the mean over the columns, over its gradient's norm with cosine; 0 for dropped ones.
Tensor loss_scales(const Run& run, const TargetLabels& targets, const Tensor& norms) {
    const auto& plan = run.inputs.plan;
    const auto members = members_of(plan, targets.kept);
    auto scales = at::zeros({std::ssize(plan.target_rows)}, at::TensorOptions().dtype(torch::kFloat32));
    for (const auto place : targets.kept) {
        const double shared =
            run.settings.columns == "tasks"
                ? static_cast<double>(plan.tasks * members[static_cast<std::size_t>(plan.task_of(place))])
                : static_cast<double>(targets.kept.size());
        scales[place] = 1.0 / shared / (cosine(run) ? norms[place].item<double>() : 1.0);
    }
    return scales;
}

/// The Hessian's products, as the iteration asks for them.
class Products {
public:
    Products(const Run& run, const TargetLabels& targets, const Tensor& norms)
        : run_(run), targets_(targets), scales_(loss_scales(run, targets, norms)) {
        const auto recovered = run.state.recovered(curvature_rows);
        if (!run.comm.is_root()) return;
        Work total, before;
        for (const auto done : recovered) {
            total += work_of_product();
            if (done != 0) before += work_of_product();
        }
        progress_.emplace("curvature", total, before);
    }

    Tensor operator()(std::int64_t step, const Tensor& direction) {
        auto sum = at::zeros_like(direction);
        const bool done = run_.state.recovered(curvature_rows)[static_cast<std::size_t>(step)] != 0;
        const auto pieces = direction_rows_of(run_.inputs.plan).pieces;
        if (done) {
            run_.state.read(curvature_rows, 0, {step * pieces, pieces}, values(sum));
            return sum;
        }
        add_units(direction, sum);
        if (!at::isfinite(sum).all().item<bool>())
            throw Error(ExitCode::bad_input,
                        {run_.settings.model, "Hessian of the target loss", "finite products with a direction",
                         fmt::format("numbers that are not, in product {}", step + 1),
                         "Check the model's weights and the targets, or use --curvature fisher."});
        if (run_.comm.is_root()) {
            const std::span<const float> column = values(sum);
            run_.state.write_unit(curvature_rows, step, std::span(&column, 1));
        }
        return sum;
    }

private:
    [[nodiscard]] Work work_of(const data::WorkUnit& unit) const {
        return sample_work(run_.inputs.targets, &run_.inputs.plan.target_rows)(unit);
    }

    [[nodiscard]] Work work_of_product() const {
        Work sum;
        for (const auto& unit : run_.inputs.plan.curvature_units) sum += work_of(unit);
        return sum;
    }

    /// part = the product of one unit's losses.
    void compute(const data::WorkUnit& unit, const Tensor& direction, const Tensor& part) const {
        const auto& kept = targets_.kept;
        const auto first = std::lower_bound(kept.begin(), kept.end(), unit.rows.first);
        const std::vector<std::int64_t> places(first, std::lower_bound(first, kept.end(), unit.rows.end()));
        std::vector<std::int64_t> rows;
        for (const auto place : places) rows.push_back(run_.inputs.plan.target_rows[static_cast<std::size_t>(place)]);
        part.zero_();
        auto sums = by_layer(run_, part);
        influence::add_hessian_products(
            run_.model.decoder, run_.model.chosen, run_.inputs.targets.read(rows),
            scales_.index_select(0, at::tensor(places, at::TensorOptions().dtype(torch::kInt64))),
            by_layer(run_, direction), run_.settings.batch_tokens, sums);
    }

    /// Every rank computes one unit, then these are added in their order, a slice by each rank; until none is left.
    /// Then all have the sum.
    void add_units(const Tensor& direction, Tensor& sum) {
        const auto& units = run_.inputs.plan.curvature_units;
        const auto ranks = static_cast<std::size_t>(run_.comm.size());
        const auto own = at::empty_like(direction);
        for (std::size_t first = 0; first < units.size(); first += ranks) {
            const auto mine = first + static_cast<std::size_t>(run_.comm.rank());
            const bool has_unit = mine < units.size();
            if (has_unit) compute(units[mine], direction, own);
            comm::add_to_slices(run_.comm, has_unit ? values(own) : std::span<float>(), values(sum));
            if (!progress_) continue;
            for (auto unit = first; unit < std::min(units.size(), first + ranks); ++unit)
                progress_->add(work_of(units[unit]));
        }
        comm::share_slices(run_.comm, values(sum));
    }

    const Run& run_;
    const TargetLabels& targets_;
    Tensor scales_;
    std::optional<Progress> progress_;
};

/// Standard normal numbers, by layer; zeros behind.
Tensor start_of(const Run& run) {
    const auto layout = direction_rows_of(run.inputs.plan);
    auto start = at::zeros({layout.pieces * layout.width}, run.model.decoder.options());
    const auto parts = by_layer(run, start);
    const auto& layers = run.model.chosen.layers();
    for (std::size_t i = 0; i < layers.size(); ++i)
        parts[i].copy_(model::gaussian({run.settings.seed, "curvature start", layers[i].name}, layers[i].outputs,
                                       layers[i].inputs, 1.0, start.options()));
    return start;
}

/// (r) of the rows of `factor` with the optimizer's b, layers added in fp64; nothing without an optimizer.
std::vector<double> products_with_step(const Run& run, const Tensor& factor) {
    if (!run.model.optimizer.file) return {};
    std::vector<double> products(static_cast<std::size_t>(factor.size(0)), 0.0);
    const auto layers = by_layer(run, factor);
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const auto constant = step_constant(run, i).view({-1});
        for (std::size_t row = 0; row < products.size(); ++row)
            products[row] += influence::product_of(layers[i][static_cast<std::int64_t>(row)].reshape({-1}), constant);
    }
    return products;
}

/// The first of the values, and of all the signs, for people.
std::string curvature_text(const std::vector<double>& value) {
    const auto shown = std::min<std::size_t>(8, value.size());
    return fmt::format("curvature of the mean target loss in {} directions, {} of them negative; largest: {:.3g}",
                       value.size(), std::count_if(value.begin(), value.end(), [](double mu) { return mu < 0; }),
                       fmt::join(value.begin(), value.begin() + static_cast<std::ptrdiff_t>(shown), " "));
}

}  // namespace

TargetCurvature target_curvature(const Run& run, const TargetLabels& targets, const Tensor& norms) {
    const auto pairs = [&] {  // the progress ends with the products
        Products products(run, targets, norms);
        return influence::lanczos(
            [&products](std::int64_t step, const Tensor& direction) { return products(step, direction); },
            start_of(run), run.settings.rank);
    }();
    run.state.sync();
    for (std::size_t j = 0; j < pairs.value.size(); ++j)
        pairs.vector.select(0, static_cast<std::int64_t>(j)).mul_(std::sqrt(std::abs(pairs.value[j])));
    say(run.comm, curvature_text(pairs.value));
    return {pairs.value, pairs.vector, products_with_step(run, pairs.vector)};
}

}  // namespace idistill::stages
