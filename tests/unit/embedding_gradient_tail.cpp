// The gradient tail: what it is made of, and that it does not depend on its neighbours.

#include <boost/test/unit_test.hpp>

#include "idistill/embedding/encoder.hpp"
#include "idistill/influence/gradient/passes.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;
using embedding::GradientTailSettings;

namespace {

constexpr std::int64_t all_at_once = 1'000'000;
const std::vector<std::int64_t> lengths{9, 2, 70, 5, 5, 33, 140};

/// Linear layers of the last `blocks` blocks whose names end so.
std::vector<model::LinearLayer> tail_layers(const model::ModelConfig& config, std::int64_t blocks,
                                            const std::string& end) {
    std::vector<model::LinearLayer> layers;
    for (const auto& layer : model::linear_layers(config))
        if (layer.block >= config.blocks - blocks && layer.name.ends_with(end)) layers.push_back(layer);
    return layers;
}

/// Some samples end with tokens that are no labels: the hidden state is read behind the last predictor.
data::Samples samples_with_ends(std::int64_t vocabulary) {
    auto samples = random_samples(vocabulary, lengths, 3);
    for (const std::size_t i : {0, 2, 5}) {
        const auto end = static_cast<std::size_t>(samples.offsets[i + 1]);
        samples.label_mask[end - 1] = samples.label_mask[end - 2] = 0;
        samples.label_mask[end - 4] = 1;
    }
    return samples;
}

Tensor unit(const Tensor& row) { return row / row.norm(); }

}  // namespace

BOOST_AUTO_TEST_SUITE(embedding_gradient_tail)

BOOST_AUTO_TEST_CASE(it_is_the_last_hidden_state_beside_the_sketch_of_gradients) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        const TinyModel tiny(config);
        const auto samples = samples_with_ends(config.vocabulary);
        for (const std::int64_t blocks : {1, 2, 3}) {
            for (const std::string end : {"down_proj", "v_proj", "proj"}) {
                const auto layers = tail_layers(config, blocks, end);
                const auto numbers = 9 * static_cast<std::int64_t>(layers.size());
                const GradientTailSettings settings{config.hidden, numbers, 43};
                const auto tail = embedding::make_gradient_tail_encoder(tiny.decoder(), layers, settings);
                BOOST_TEST(tail->width() == config.hidden + numbers);
                const auto found = (*tail)(samples, all_at_once);
                const auto decoder = tiny.in_double();
                const auto sketch = influence::make_sketch(influence::SketchKind::tensor, layers, numbers,
                                                           embedding::tail_sketch_seed(43), decoder.options());
                const auto gradients = influence::gradient_sketches(decoder, model::ChosenLayers(config, layers),
                                                                    *sketch, samples, all_at_once);
                for (std::int64_t i = 0; i < samples.size(); ++i) {
                    const auto whole = model::pack(decoder, samples, {i}, {length_of(samples, i)});
                    const auto last = model::hidden_states(decoder, whole, config.blocks)[-1];
                    BOOST_TEST(relative_error(found[i], at::cat({unit(last), unit(gradients.features[i])})) < 2e-5);
                }
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(it_does_not_depend_on_the_micro_batch) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        const TinyModel tiny(config);
        const auto samples = samples_with_ends(config.vocabulary);
        const auto layers = tail_layers(config, 2, "down_proj");
        for (const std::int64_t states : {std::int64_t{5}, config.hidden}) {  // projected or not
            const GradientTailSettings settings{states, 18, 43};
            const auto twice = tiny.in_double();
            const auto truth = (*embedding::make_gradient_tail_encoder(twice, layers, settings))(samples, 1);
            const auto tail = embedding::make_gradient_tail_encoder(tiny.decoder(), layers, settings);
            BOOST_TEST(tail->width() == states + 18);
            for (const std::int64_t batch_tokens : {std::int64_t{1}, std::int64_t{40}, all_at_once}) {
                const auto found = (*tail)(samples, batch_tokens);
                BOOST_TEST(found.scalar_type() == torch::kFloat32);
                for (std::int64_t i = 0; i < samples.size(); ++i) {
                    BOOST_TEST(relative_error(found[i], truth[i]) < 2e-5);
                    for (const auto& part : {found[i].narrow(0, 0, states), found[i].narrow(0, states, 18)})
                        BOOST_TEST(std::abs(part.norm().item<double>() - 1.0) < 1e-5);
                }
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(samples_without_labels_get_zeros) {
    const TinyModel tiny(tiny_llama());
    auto samples = random_samples(23, {4, 0, 6, 1, 3}, 3);
    std::fill(samples.label_mask.begin() + 4, samples.label_mask.begin() + 10, std::uint8_t{0});
    const auto tail =
        embedding::make_gradient_tail_encoder(tiny.decoder(), tail_layers(tiny.config(), 1, "down_proj"), {12, 9, 43});
    const auto found = (*tail)(samples, all_at_once).abs().amax(1);
    for (std::int64_t i = 0; i < 5; ++i)  // nothing predicts the only token of sample 3
        BOOST_TEST((found[i].item<float>() == 0.0F) == (i == 1 || i == 2 || i == 3));
}

BOOST_AUTO_TEST_CASE(its_sketch_is_not_that_of_the_labels) {
    const TinyModel tiny(tiny_llama());
    const auto layers = tail_layers(tiny.config(), 1, "down_proj");
    const auto samples = random_samples(23, {9}, 3);
    const auto found =
        (*embedding::make_gradient_tail_encoder(tiny.decoder(), layers, {12, 9, 43}))(samples, all_at_once);
    const auto labels = influence::make_sketch(influence::SketchKind::tensor, layers, 9, 43, tiny.decoder().options());
    const auto rows = influence::gradient_sketches(tiny.decoder(), model::ChosenLayers(tiny.config(), layers), *labels,
                                                   samples, all_at_once);
    BOOST_TEST(relative_error(found[0].narrow(0, 12, 9), unit(rows.features[0])) > 0.1);
}

BOOST_AUTO_TEST_SUITE_END()
