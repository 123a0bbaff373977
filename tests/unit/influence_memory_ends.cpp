// Gradient passes on a device whose memory ends in the middle of a micro-batch: wherever that is, what was computed of
// the batch counts once.

#include <c10/util/Exception.h>

#include <boost/test/unit_test.hpp>
#include <functional>

#include "idistill/influence/gradient/hessian.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "places.hpp"
#include "sketch_kinds.hpp"

using namespace idistill;
using namespace idistill::test;

namespace {

constexpr std::int64_t two_batches = 120;

struct Problem {
    TinyModel tiny{tiny_llama()};
    model::Decoder decoder = tiny.decoder().to(test_device(), torch::kFloat64).padded();
    model::ChosenLayers chosen{tiny_llama(), model::chosen_layers(tiny_llama(), "_proj")};
    data::Samples samples = random_samples(tiny_llama().vocabulary, {9, 2, 40, 5, 14, 33, 30, 1 + 24}, 31);
    Tensor scale = normal({8}, 3);

    [[nodiscard]] std::vector<Tensor> like_layers(bool zero) const {
        std::vector<Tensor> all;
        for (const auto& layer : chosen.layers()) {
            const auto numbers = normal({layer.outputs, layer.inputs}, 7 + all.size()).to(decoder.options());
            all.push_back(zero ? at::zeros_like(numbers) : numbers);
        }
        return all;
    }
    [[nodiscard]] std::vector<Tensor> gradient_sum() const {
        auto sums = like_layers(true);
        influence::add_weighted_gradients(decoder, chosen, samples, scale, two_batches, sums);
        return sums;
    }
    [[nodiscard]] std::vector<Tensor> hessian_product() const {
        auto sums = like_layers(true);
        influence::add_hessian_products(decoder, chosen, samples, scale, like_layers(false), two_batches, sums);
        return sums;
    }
    [[nodiscard]] std::vector<Tensor> sketches() const {
        const auto sketch =
            influence::make_sketch(influence::SketchKind::tensor, chosen.layers(), 36 * 14, 5, decoder.options());
        const auto rows = influence::gradient_sketches(decoder, chosen, *sketch, samples, two_batches, {});
        return {rows.loss, rows.norm, rows.features};
    }
};

/// `pass` gives the same wherever memory ends: at every `step`-th piece of memory that it asks for.
void check(const std::function<std::vector<Tensor>()>& pass, std::int64_t step) {
    const auto truth = pass();
    const auto before = device_allocations();
    pass();
    const auto pieces = device_allocations() - before;
    BOOST_TEST_REQUIRE(pieces > 10 * step);
    std::int64_t tried = 0, survived = 0;
    for (std::int64_t end = pieces; end > 0; end -= step) {
        ++tried;
        run_out_of_memory_at(end);
        std::vector<Tensor> found;
        try {
            found = pass();
            ++survived;
        } catch (const c10::OutOfMemoryError&) {  // outside of the micro-batches: what is thrown on
        }
        run_out_of_memory_at(0);
        for (std::size_t i = 0; i < found.size(); ++i) {
            const double error = relative_error(found[i].cpu(), truth[i].cpu());
            BOOST_TEST(error < 1e-12, "memory ends at piece " << end << " of " << pieces << ": " << error);
        }
    }
    BOOST_TEST(10 * survived > 8 * tried, survived << " of " << tried << " times the pass went on");
}

}  // namespace

BOOST_AUTO_TEST_SUITE(influence_memory_ends)

BOOST_AUTO_TEST_CASE(sums_of_gradients) {
    const Problem problem;
    check([&] { return problem.gradient_sum(); }, 13);
}

BOOST_AUTO_TEST_CASE(products_with_the_hessian) {
    const Problem problem;
    check([&] { return problem.hessian_product(); }, 61);
}

BOOST_AUTO_TEST_CASE(sketches_and_norms) {
    const Problem problem;
    check([&] { return problem.sketches(); }, 101);
}

BOOST_AUTO_TEST_SUITE_END()
