// The passes as a whole: gradients against finite differences in double, double against single precision, what the taps
// hand out.

#include <boost/test/unit_test.hpp>
#include <map>

#include "idistill/model/passes.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;
using model::ChosenLayers;
using model::Decoder;

namespace {

const std::vector<std::int64_t> lengths{9, 2, 70, 5};

data::Samples samples_of(const Decoder& decoder) { return random_samples(decoder.config().vocabulary, lengths, 17); }

std::vector<std::int64_t> everyone() { return {0, 1, 2, 3}; }

struct Gradients {
    Tensor losses;
    std::map<std::string, std::vector<Tensor>> of;  ///< [layer][sample] (outputs x inputs)
};

Gradients gradients(const Decoder& decoder, const model::LossBatch& batch, const std::string& regex,
                    const Tensor& scale = {}) {
    const ChosenLayers chosen(decoder.config(), model::chosen_layers(decoder.config(), regex));
    Gradients result;
    result.losses = model::loss_gradients(
        decoder, batch, chosen,
        [&](const model::LayerTap& tap) {
            auto& own = result.of[chosen.layers()[tap.layer].name];
            BOOST_TEST(own.empty());
            for (std::size_t i = 0; i + 1 < tap.offsets.size(); ++i) {
                const auto count = tap.offsets[i + 1] - tap.offsets[i];
                own.push_back(at::mm(tap.output_gradient.narrow(0, tap.offsets[i], count).t(),
                                     tap.input.narrow(0, tap.offsets[i], count)));
            }
        },
        scale);
    return result;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_passes)

BOOST_AUTO_TEST_CASE(gradients_are_finite_differences_of_the_losses) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        const TinyModel tiny(config);
        const auto decoder = tiny.in_double();
        const auto batch = model::pack_with_labels(decoder, samples_of(decoder), everyone());
        const auto found = gradients(decoder, batch, ".");
        BOOST_TEST(found.of.size() == static_cast<std::size_t>(7 * config.blocks));
        for (const auto& layer : model::linear_layers(config)) {
            auto weight = weight_of(decoder, layer);
            const auto random = normal({layer.outputs, layer.inputs}, 5), direction = random / random.norm();
            auto single = at::zeros_like(direction);
            single[layer.outputs - 1][1] = 1.0;
            for (const auto& along : {direction, single}) {
                constexpr double h = 1e-5;
                weight.add_(along, h);
                const auto above = model::losses(decoder, batch);
                weight.sub_(along, 2 * h);
                const auto below = model::losses(decoder, batch);
                weight.add_(along, h);
                for (std::int64_t i = 0; i < 4; ++i) {
                    const double slope = (above[i] - below[i]).item<double>() / (2 * h);
                    const auto& gradient = found.of.at(layer.name)[static_cast<std::size_t>(i)];
                    const double error = std::abs((gradient * along).sum().item<double>() - slope);
                    BOOST_TEST(error < 1e-8 * (1.0 + gradient.norm().item<double>()),
                               layer.name << " sample " << i << ": " << error);
                }
            }
        }
    }
}

// Nothing assumes float32 or the fused kernels.
BOOST_AUTO_TEST_CASE(double_precision_agrees_with_single) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        const TinyModel tiny(config);
        const auto& single = tiny.decoder();
        const auto twice = tiny.in_double();
        const auto samples = samples_of(single);
        const auto a = model::pack_with_labels(single, samples, everyone()),
                   b = model::pack_with_labels(twice, samples, everyone());
        for (std::int64_t blocks = 0; blocks <= config.blocks; ++blocks)
            BOOST_TEST(relative_error(model::hidden_states(single, a.batch, blocks),
                                      model::hidden_states(twice, b.batch, blocks)) < 1e-5);
        BOOST_TEST(relative_error(model::logits(single, a.batch, a.labels.predictors),
                                  model::logits(twice, b.batch, b.labels.predictors)) < 1e-5);
        const auto ga = gradients(single, a, "."), gb = gradients(twice, b, ".");
        BOOST_TEST(gb.losses.scalar_type() == torch::kFloat64);
        BOOST_TEST(relative_error(ga.losses, gb.losses) < 1e-5);
        for (const auto& [name, own] : ga.of)
            for (std::size_t i = 0; i < own.size(); ++i)
                BOOST_TEST(relative_error(own[i], gb.of.at(name)[i]) < 1e-5, name << " sample " << i);
    }
}

BOOST_AUTO_TEST_CASE(a_loss_is_the_mean_over_the_labels_of_its_sample) {
    const TinyModel tiny(tiny_llama());
    const auto decoder = tiny.in_double();
    const auto samples = samples_of(decoder);
    const auto batch = model::pack_with_labels(decoder, samples, everyone());
    const auto found = model::losses(decoder, batch);
    for (std::int64_t i = 0; i < samples.size(); ++i) {
        const auto alone = model::pack(decoder, samples, {i}, {length_of(samples, i)});
        const auto log_p = at::log_softmax(model::logits(decoder, alone, model::all_rows(alone)), 1);
        double sum = 0.0;
        std::int64_t count = 0;
        const auto first = static_cast<std::size_t>(samples.offsets[static_cast<std::size_t>(i)]);
        for (std::size_t p = 1; p < static_cast<std::size_t>(length_of(samples, i)); ++p) {
            if (samples.label_mask[first + p] == 0) continue;
            sum -= log_p[static_cast<std::int64_t>(p) - 1][samples.tokens[first + p]].item<double>();
            ++count;
        }
        BOOST_TEST(batch.labels.counts[static_cast<std::size_t>(i)] == count);
        BOOST_TEST(std::abs(found[i].item<double>() - sum / static_cast<double>(count)) < 1e-12);
    }
}

BOOST_AUTO_TEST_CASE(samples_are_cut_behind_their_last_predictor) {
    const TinyModel tiny(tiny_llama());
    auto samples = random_samples(23, {6, 5}, 2);
    samples.label_mask = {1, 0, 1, 1, 0, 0, /* second */ 1, 1, 0, 0, 1};
    const auto batch = model::pack_with_labels(tiny.decoder(), samples, {1, 0});
    BOOST_TEST((batch.batch.offsets == std::vector<std::int64_t>{0, 4, 7}));
    BOOST_TEST(
        (batch.labels.counts == std::vector<std::int64_t>{2, 2}));  // the label on the first token has no predictor
    BOOST_TEST((batch.labels.predictors.position == std::vector<std::int64_t>{0, 3, 1, 2}));
    const std::vector<std::int32_t> expected{samples.tokens[7], samples.tokens[10], samples.tokens[2],
                                             samples.tokens[3]};
    for (std::size_t i = 0; i < expected.size(); ++i)
        BOOST_TEST(batch.labels.labels[static_cast<std::int64_t>(i)].item<std::int64_t>() == expected[i]);
}

BOOST_AUTO_TEST_CASE(choosing_fewer_layers_changes_nothing_in_them) {
    for (const auto& config : {tiny_llama(), tiny_qwen3()}) {
        const TinyModel tiny(config);
        const auto decoder = tiny.in_double();
        const auto batch = model::pack_with_labels(decoder, samples_of(decoder), everyone());
        const auto all = gradients(decoder, batch, ".");
        for (const auto* regex : {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
                                  "layers.2", "layers.1.*(q|down)_proj", "layers.2.mlp.up"}) {
            const auto some = gradients(decoder, batch, regex);
            BOOST_TEST(some.of.size() == model::chosen_layers(config, regex).size());
            BOOST_TEST(relative_error(some.losses, all.losses) < 1e-13);
            for (const auto& [name, own] : some.of)
                for (std::size_t i = 0; i < own.size(); ++i)
                    BOOST_TEST(relative_error(own[i], all.of.at(name)[i]) < 1e-12, regex << " " << name);
        }
    }
}

BOOST_AUTO_TEST_CASE(scales_multiply_gradients_and_not_losses) {
    const TinyModel tiny(tiny_qwen3());
    const auto decoder = tiny.in_double();
    const auto batch = model::pack_with_labels(decoder, samples_of(decoder), everyone());
    const auto scale = at::tensor({2.0, 0.0, -0.5, 1.0}, at::TensorOptions().dtype(torch::kFloat64));
    const auto plain = gradients(decoder, batch, "."), scaled = gradients(decoder, batch, ".", scale);
    BOOST_TEST(relative_error(scaled.losses, plain.losses) < 1e-14);
    for (const auto& [name, own] : scaled.of)
        for (std::int64_t i = 0; i < 4; ++i)
            BOOST_TEST(relative_error(own[static_cast<std::size_t>(i)],
                                      scale[i] * plain.of.at(name)[static_cast<std::size_t>(i)]) < 1e-12);
}

// More predictors than one chunk of logits holds: 64 MiB / (4 bytes * vocabulary) rows.
BOOST_AUTO_TEST_CASE(chunks_of_logits_join) {
    auto config = tiny_llama();
    config.vocabulary = 150'000;
    config.blocks = 1;
    const TinyModel tiny(config);
    const auto samples = random_samples(config.vocabulary, {150, 90, 200}, 4);
    const auto& decoder = tiny.decoder();
    const auto together = model::pack_with_labels(decoder, samples, {0, 1, 2});
    BOOST_REQUIRE(together.labels.predictors.rows() > 2 * 111);
    const auto all = gradients(decoder, together, "down_proj");
    BOOST_TEST(relative_error(model::losses(decoder, together), all.losses) < 1e-6);
    const auto cut = only(samples, 1, 90);
    const auto alone = gradients(decoder, model::pack_with_labels(decoder, cut, {0}), "down_proj");
    BOOST_TEST(relative_error(all.losses[1], alone.losses[0]) < 1e-6);
    const auto& name = all.of.begin()->first;
    BOOST_TEST(relative_error(all.of.at(name)[1], alone.of.at(name)[0]) < 1e-5);
}

BOOST_AUTO_TEST_CASE(a_sample_without_finite_numbers_leaves_the_others_alone) {
    const TinyModel tiny(tiny_llama());
    auto samples = random_samples(22, lengths, 17);  // token 22 only where it is put
    samples.tokens[3] = 22;
    samples.label_mask[3] = samples.label_mask[4] = 1;
    const auto decoder = tiny.in_double();
    const auto healthy = gradients(decoder, model::pack_with_labels(decoder, samples, everyone()), ".");
    decoder.embedding().select(0, 22).fill_(std::numeric_limits<double>::quiet_NaN());
    const auto sick = gradients(decoder, model::pack_with_labels(decoder, samples, everyone()), ".");
    BOOST_TEST(std::isnan(sick.losses[0].item<double>()));
    BOOST_TEST(relative_error(sick.losses.narrow(0, 1, 3), healthy.losses.narrow(0, 1, 3)) < 1e-12);
    for (const auto& [name, own] : sick.of)
        for (std::size_t i = 1; i < own.size(); ++i) BOOST_TEST(relative_error(own[i], healthy.of.at(name)[i]) < 1e-12);
}

BOOST_AUTO_TEST_SUITE_END()
