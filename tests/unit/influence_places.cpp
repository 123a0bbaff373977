// Gradient passes with padded samples, in 64, 32 and 16 bits, on a CPU and where there is one on a GPU, against one
// sample after the other in double precision.

#include <boost/test/unit_test.hpp>

#include "../../src/influence/gradient/places.hpp"
#include "idistill/influence/gradient/hessian.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "idistill/model/precision.hpp"
#include "places.hpp"
#include "sketch_kinds.hpp"

using namespace idistill;
using namespace idistill::test;
using influence::GradientRows;
using influence::Preconditioner;

namespace {

constexpr std::int64_t three_batches = 70;
const std::vector<std::int64_t> lengths{9, 2, 70, 5, 14, 33, 64, 1 + 64};

struct Problem {
    explicit Problem(const model::ModelConfig& config)
        : tiny(config),
          truth(tiny.in_double()),
          chosen(config, model::chosen_layers(config, "layers\\.[12].*_proj")),
          samples(random_samples(config.vocabulary, lengths, 31)) {}

    TinyModel tiny;
    model::Decoder truth;
    model::ChosenLayers chosen;
    data::Samples samples;

    [[nodiscard]] std::vector<Tensor> directions(std::int64_t count, const at::TensorOptions& options) const {
        std::vector<Tensor> all;
        for (const auto& layer : chosen.layers())
            all.push_back(normal({count, layer.outputs, layer.inputs}, 7 + all.size()).to(options));
        return all;
    }
    [[nodiscard]] Preconditioner scales(const model::Decoder& decoder) const {
        Preconditioner by;
        for (const auto& one : directions(1, model::accumulating(decoder.options())))
            by.scales.push_back(one[0].square());
        return by;
    }
    [[nodiscard]] Preconditioner step(const model::Decoder& decoder) const {
        Preconditioner by{.step = influence::AdamStep{{}, {}, 0.1, 0.05, 1e-3}};
        for (const auto& one : directions(1, model::accumulating(decoder.options()))) {
            by.step->first.push_back(one[0] * 0.1);
            by.step->second.push_back(one[0].square());
        }
        return by;
    }
    [[nodiscard]] GradientRows sketched(const model::Decoder& decoder, influence::SketchKind kind,
                                        const Preconditioner& by) const {
        const auto layers = static_cast<std::int64_t>(chosen.layers().size());
        const auto sketch = influence::make_sketch(kind, chosen.layers(), layers * 36, 5, decoder.options());
        return influence::gradient_sketches(decoder, chosen, *sketch, samples, three_batches, by);
    }
};

std::vector<Problem> problems() {
    std::vector<Problem> all;
    for (const auto& config : {tiny_llama(), tiny_qwen3(), tiny_wide_heads()}) all.emplace_back(config);
    return all;
}

void check(const TestPlace& place, const std::string& what, const Tensor& found, const Tensor& truth,
           double factor = 1.0) {
    const double error = relative_error(found.cpu(), truth);
    BOOST_TEST(error < factor * place.tolerance, place.name << " " << what << ": " << error);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(influence_places)

BOOST_AUTO_TEST_CASE(sketches_and_norms) {
    for (const auto& problem : problems())
        for (const auto& place : padded_places(problem.tiny))
            for (const auto kind : sketch_kinds) {
                const auto truth = problem.sketched(problem.truth, kind, {});
                const auto found = problem.sketched(place.decoder, kind, {});
                check(place, "losses", found.loss, truth.loss);
                check(place, "norms", found.norm, truth.norm);
                check(place, "sketches", found.features, truth.features);
            }
}

BOOST_AUTO_TEST_CASE(an_optimizers_steps) {
    const Problem problem(tiny_wide_heads());
    for (const auto& place : padded_places(problem.tiny))
        for (const auto kind : sketch_kinds)
            for (const bool step : {false, true}) {
                const auto by = [&](const model::Decoder& d) { return step ? problem.step(d) : problem.scales(d); };
                const auto truth = problem.sketched(problem.truth, kind, by(problem.truth));
                const auto found = problem.sketched(place.decoder, kind, by(place.decoder));
                check(place, "norms", found.norm, truth.norm);
                check(place, "sketches", found.features, truth.features);
            }
}

BOOST_AUTO_TEST_CASE(products_with_directions) {
    for (const auto& problem : problems())
        for (const auto& place : padded_places(problem.tiny))
            for (const std::int64_t count : {1, 5}) {
                const auto products = [&](const model::Decoder& decoder, const Preconditioner& by) {
                    return influence::gradient_products(
                        decoder, problem.chosen, problem.directions(count, model::accumulating(decoder.options())),
                        problem.samples, three_batches, by);
                };
                const auto truth = products(problem.truth, {}), found = products(place.decoder, {});
                check(place, "products", found.features, truth.features, 2.0);
                check(place, "norms", found.norm, truth.norm);
                check(place, "products after a, by", products(place.decoder, problem.scales(place.decoder)).features,
                      products(problem.truth, problem.scales(problem.truth)).features, 2.0);
            }
}

BOOST_AUTO_TEST_CASE(directions_come_layer_by_layer) {
    const Problem problem(tiny_llama());
    std::int64_t numbers = 0;
    for (const auto& layer : problem.chosen.layers()) numbers += layer.outputs * layer.inputs;
    const auto flat = normal({3, numbers + 5}, 11).to(torch::kFloat32);
    for (const auto& place : padded_places(problem.tiny)) {
        const influence::GradientModel model{place.decoder, problem.chosen, {}, {}};
        const auto views = influence::by_layer(model, flat), found = influence::directions_by_layer(model, flat);
        const bool here = place.decoder.options().device().is_cpu() && place.tolerance > 1e-6;
        for (std::size_t i = 0; i < views.size(); ++i) {
            BOOST_TEST((found[i].is_alias_of(flat) == here), place.name);  // no second copy in the host's memory
            BOOST_TEST((here || found[i].is_contiguous()), place.name);
            BOOST_TEST(found[i].cpu().equal(views[i].to(found[i].scalar_type())), place.name);
        }
    }
}

BOOST_AUTO_TEST_CASE(sums_and_hessian_products) {
    for (const auto& problem : problems())
        for (const auto& place : padded_places(problem.tiny)) {
            const auto zeros = [&](const model::Decoder& decoder) {
                auto sums = problem.directions(1, model::accumulating(decoder.options()));
                for (auto& sum : sums) sum = at::zeros_like(sum[0]);
                return sums;
            };
            const auto flat = [](const std::vector<Tensor>& layers) {
                std::vector<Tensor> parts;
                for (const auto& layer : layers) parts.push_back(layer.flatten().cpu());
                return at::cat(parts);
            };
            const auto scale = normal({problem.samples.size()}, 3);
            const auto gradients = [&](const model::Decoder& decoder) {
                auto sums = zeros(decoder);
                influence::add_weighted_gradients(decoder, problem.chosen, problem.samples, scale, three_batches, sums);
                return flat(sums);
            };
            const auto hessian = [&](const model::Decoder& decoder) {
                auto sums = zeros(decoder);
                auto v = problem.directions(1, model::accumulating(decoder.options()));
                for (auto& one : v) one = one[0].contiguous();
                influence::add_hessian_products(decoder, problem.chosen, problem.samples, scale, v, three_batches,
                                                sums);
                return flat(sums);
            };
            check(place, "weighted gradients", gradients(place.decoder), gradients(problem.truth), 2.0);
            check(place, "products with the Hessian", hessian(place.decoder), hessian(problem.truth), 4.0);
        }
}

BOOST_AUTO_TEST_SUITE_END()
