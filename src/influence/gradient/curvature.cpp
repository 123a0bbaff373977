// Curvature of the target loss, after the targets' labels: r products of its Hessian, each the sum of the units that
// the ranks compute side by side.

#include "curvature.hpp"

#include <ATen/ATen.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "idistill/base/error.hpp"
#include "idistill/base/progress.hpp"
#include "idistill/comm/ordered_sum.hpp"
#include "idistill/comm/say.hpp"
#include "idistill/influence/gradient/hessian.hpp"
#include "idistill/model/precision.hpp"
#include "idistill/model/random.hpp"
#include "places.hpp"

namespace idistill::influence {
namespace {

using torch::Tensor;
using work::values;

/// Weight of each place's loss in the mean over the columns, over its gradient's norm with cosine; 0 for dropped ones.
Tensor loss_scales(const Labelling& run, const std::vector<std::int64_t>& kept, const Tensor& norms) {
    const auto& plan = run.plan;
    const auto members = members_of(plan, kept);
    auto scales = at::zeros({plan.targets()}, at::TensorOptions().dtype(torch::kFloat32));
    for (const auto place : kept) {
        const double shared =
            run.by_task() ? static_cast<double>(plan.tasks * members[static_cast<std::size_t>(plan.task_of(place))])
                          : static_cast<double>(kept.size());
        scales[place] = 1.0 / shared / (run.cosine() ? norms[place].item<double>() : 1.0);
    }
    return scales;
}

/// The Hessian's products, as the iteration asks for them.
class Products {
public:
    Products(const Labelling& run, const std::vector<std::int64_t>& kept, const Tensor& norms)
        : run_(run),
          kept_(kept),
          scales_(loss_scales(run, kept, norms)),
          stage_(run.work.plan.stage(gradient_state::curvature)) {
        const auto recovered = run.work.state.recovered(gradient_state::curvature);
        if (run.work.comm.is_root()) progress_ = work::progress_of(stage_, recovered);
    }

    Tensor operator()(std::int64_t step, const Tensor& direction) {
        auto sum = at::zeros_like(direction);
        if (run_.work.state.recovered(gradient_state::curvature)[static_cast<std::size_t>(step)] != 0) {
            run_.work.state.read(gradient_state::curvature, gradient_state::product,
                                 {step * run_.plan.pieces, run_.plan.pieces}, values(sum));
            return sum;
        }
        add_units(direction, sum);
        if (!at::isfinite(sum).all().item<bool>())
            throw Error(ExitCode::bad_input,
                        {run_.inputs().model, "Hessian of the target loss", "finite products with a direction",
                         fmt::format("numbers that are not, in product {}", step + 1),
                         "Check the model's weights and the targets, or use --curvature fisher."});
        if (run_.work.comm.is_root()) {
            const std::span<const float> column = values(sum);
            run_.work.state.write_unit(gradient_state::curvature, step, std::span(&column, 1));
        }
        return sum;
    }

private:
    /// part = the product of one unit's losses.
    void compute(const data::WorkUnit& unit, const Tensor& direction, const Tensor& part) const {
        const auto places = places_in(kept_, unit.rows);
        const auto options = model::accumulating(run_.model.decoder.options());
        const auto whole = at::zeros(part.sizes(), options);
        auto sums = by_layer(run_.model, whole);
        add_hessian_products(run_.model.decoder, run_.model.chosen, read_places(run_, places),
                             scales_.index_select(0, at::tensor(places, at::TensorOptions().dtype(torch::kInt64))),
                             by_layer(run_.model, direction.to(options)), run_.run().batch_tokens, sums);
        part.copy_(whole);
    }

    /// Every rank computes one unit, then each adds its slice of all of them, in their order; until none is left.
    void add_units(const Tensor& direction, Tensor& sum) {
        auto& comm = run_.work.comm;
        const auto ranks = static_cast<std::size_t>(comm.size());
        const auto& units = stage_.units;
        const auto own = at::empty_like(direction);
        for (std::size_t first = 0; first < units.size(); first += ranks) {
            const auto mine = first + static_cast<std::size_t>(comm.rank());
            const bool has_unit = mine < units.size();
            if (has_unit) compute(units[mine], direction, own);
            comm::add_to_slices(comm, has_unit ? values(own) : std::span<float>(), values(sum));
            if (!progress_) continue;
            for (auto unit = first; unit < std::min(units.size(), first + ranks); ++unit)
                progress_->add(work::amount_of(units[unit]));
        }
        comm::share_slices(comm, values(sum));
    }

    const Labelling& run_;
    const std::vector<std::int64_t>& kept_;
    Tensor scales_;
    const plan::Stage& stage_;
    std::unique_ptr<Progress> progress_;
};

/// Standard normal numbers, by layer; zeros behind.
Tensor start_of(const Labelling& run) {
    auto start = at::zeros({run.plan.pieces * run.plan.piece_width}, at::TensorOptions().dtype(torch::kFloat32));
    const auto parts = by_layer(run.model, start);
    const auto& layers = run.model.chosen.layers();
    for (std::size_t i = 0; i < layers.size(); ++i)
        parts[i].copy_(model::gaussian({run.run().seed, "curvature start", layers[i].name}, layers[i].outputs,
                                       layers[i].inputs, 1.0, start.options()));
    return start;
}

/// (r) of the rows of `vectors` with the optimizer's b, layers added in fp64; nothing without an optimizer.
std::vector<double> products_with_step(const Labelling& run, const Tensor& vectors) {
    if (!run.model.optimizer.file) return {};
    std::vector<double> products(static_cast<std::size_t>(vectors.size(0)), 0.0);
    const auto layers = by_layer(run.model, vectors);
    for (std::size_t i = 0; i < layers.size(); ++i) {
        const auto constant = step_constant(run, i).cpu().view({-1});
        for (std::size_t row = 0; row < products.size(); ++row)
            products[row] += product_of(layers[i][static_cast<std::int64_t>(row)].reshape({-1}), constant);
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

TargetCurvature target_curvature(const Labelling& run, const std::vector<std::int64_t>& kept, const Tensor& norms) {
    const auto pairs = [&] {  // the progress ends with the products
        Products products(run, kept, norms);
        return lanczos([&products](std::int64_t step, const Tensor& direction) { return products(step, direction); },
                       start_of(run), run.plan.curvature_columns);
    }();
    run.work.state.sync();
    for (std::size_t j = 0; j < pairs.value.size(); ++j)
        pairs.vector.select(0, static_cast<std::int64_t>(j)).mul_(std::sqrt(std::abs(pairs.value[j])));
    say(run.work.comm, curvature_text(pairs.value));
    return {pairs.value, pairs.vector, products_with_step(run, pairs.vector)};
}

}  // namespace idistill::influence
