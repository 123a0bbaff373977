// Samples behind a prefix whose keys and values are kept, against passes over whole concatenations.

#include <boost/test/unit_test.hpp>

#include "idistill/model/continuation.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;
using model::Decoder;

namespace {

/// Qwen2: biases of q, k and v alone, one key head; and Llama 3.1's rotation.
model::ModelConfig tiny_qwen2() {
    auto c = tiny_llama();
    c.family = "qwen2";
    c.kv_heads = 1;
    c.attention_output_bias = c.mlp_bias = false;
    c.rope_scaling = model::RopeScaling{"llama3", 8.0, 1.0, 4.0, 32.0};
    return c;
}

const std::vector<std::int64_t> lengths{9, 2, 70, 5, 64, 65};
const std::vector<std::int64_t> everyone{0, 1, 2, 3, 4, 5};

/// The prefix, then every sample, without labels on the prefix.
data::Samples concatenated(std::span<const std::int32_t> prefix, const data::Samples& samples) {
    data::Samples all;
    all.offsets.push_back(0);
    for (std::int64_t i = 0; i < samples.size(); ++i) {
        const auto own = only(samples, i, length_of(samples, i));
        all.tokens.insert(all.tokens.end(), prefix.begin(), prefix.end());
        all.tokens.insert(all.tokens.end(), own.tokens.begin(), own.tokens.end());
        all.label_mask.insert(all.label_mask.end(), prefix.size(), 0);
        // A label on a sample's first token has nothing that predicts it in the sample alone.
        all.label_mask.push_back(0);
        all.label_mask.insert(all.label_mask.end(), own.label_mask.begin() + 1, own.label_mask.end());
        all.offsets.push_back(std::ssize(all.tokens));
    }
    return all;
}

/// From whole logits, a sample at a time.
Tensor expected(const Decoder& decoder, const data::Samples& samples) {
    std::vector<Tensor> found;
    for (std::int64_t i = 0; i < samples.size(); ++i) {
        const auto alone = model::pack(decoder, samples, {i}, {length_of(samples, i)});
        const auto log_p = at::log_softmax(model::logits(decoder, alone, model::all_rows(alone)), 1);
        const auto first = static_cast<std::size_t>(samples.offsets[static_cast<std::size_t>(i)]);
        for (std::size_t p = 1; p < static_cast<std::size_t>(length_of(samples, i)); ++p)
            if (samples.label_mask[first + p] != 0)
                found.push_back(log_p[static_cast<std::int64_t>(p) - 1][samples.tokens[first + p]]);
    }
    return at::stack(found);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_continuation)

BOOST_AUTO_TEST_CASE(behind_kept_keys_and_values_as_in_the_whole_concatenation) {
    for (const auto& config : {tiny_llama(), tiny_qwen2(), tiny_qwen3()}) {
        const TinyModel tiny(config);
        const auto decoder = tiny.in_double();
        const auto samples = random_samples(config.vocabulary, lengths, 17);
        const auto batch = model::pack_with_labels(decoder, samples, everyone);
        for (const std::int64_t count : {1, 63, 64, 130}) {
            const auto first = random_samples(config.vocabulary, {count}, 3).tokens;
            const auto found = model::label_log_probabilities(decoder, nullptr, batch);
            BOOST_TEST(relative_error(found, expected(decoder, concatenated({}, samples))) < 1e-12);
            const auto prefix = model::read_prefix(decoder, first);
            const auto behind = model::label_log_probabilities(decoder, &prefix, batch);
            BOOST_TEST(relative_error(behind, expected(decoder, concatenated(first, samples))) < 1e-12,
                       config.family << " behind " << count);
            BOOST_TEST(relative_error(behind, found) > 1e-3);  // the prefix matters
        }
    }
}

BOOST_AUTO_TEST_CASE(in_single_precision_in_any_batch) {
    for (const auto& config : {tiny_llama(), tiny_qwen2(), tiny_qwen3()}) {
        const TinyModel tiny(config);
        const auto twice = tiny.in_double();
        const auto samples = random_samples(config.vocabulary, lengths, 5);
        const auto first = random_samples(config.vocabulary, {37}, 3).tokens;
        const auto truth = expected(twice, concatenated(first, samples));
        const auto prefix = model::read_prefix(tiny.decoder(), first);
        std::vector<Tensor> alone;
        for (const auto i : everyone)
            alone.push_back(model::label_log_probabilities(tiny.decoder(), &prefix,
                                                           model::pack_with_labels(tiny.decoder(), samples, {i})));
        const auto together = model::label_log_probabilities(
            tiny.decoder(), &prefix, model::pack_with_labels(tiny.decoder(), samples, everyone));
        BOOST_TEST(relative_error(together, truth) < 1e-5);
        BOOST_TEST(relative_error(at::cat(alone), truth) < 1e-5);
    }
}

// Keys of one sample must not be left in the place of another's.
BOOST_AUTO_TEST_CASE(a_sample_does_not_see_the_others_behind_the_prefix) {
    const TinyModel tiny(tiny_llama());
    const auto decoder = tiny.in_double();
    const auto samples = random_samples(23, {70, 3, 40}, 5);
    const auto prefix = model::read_prefix(decoder, random_samples(23, {11}, 1).tokens);
    const auto forward =
        model::label_log_probabilities(decoder, &prefix, model::pack_with_labels(decoder, samples, {0, 1, 2}));
    const auto alone = model::label_log_probabilities(decoder, &prefix, model::pack_with_labels(decoder, samples, {1}));
    const auto first = model::pack_with_labels(decoder, samples, {0}).labels.counts[0];
    BOOST_TEST(relative_error(forward.narrow(0, first, alone.size(0)), alone) < 1e-12);
}

BOOST_AUTO_TEST_SUITE_END()
