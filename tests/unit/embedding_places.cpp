// Embeddings and passes without gradients, samples padded, in 64, 32 and 16 bits, on a CPU and where there is one on a
// GPU, against one sample after the other in double precision.

#include <boost/test/unit_test.hpp>

#include "idistill/embedding/encoder.hpp"
#include "idistill/model/continuation.hpp"
#include "places.hpp"

using namespace idistill;
using namespace idistill::test;

namespace {

constexpr std::int64_t three_batches = 70;
const std::vector<std::int64_t> lengths{9, 2, 70, 5, 14, 33, 64, 1 + 64};

void check(const TestPlace& place, const std::string& what, const Tensor& found, const Tensor& truth) {
    const double error = relative_error(found.cpu(), truth);
    BOOST_TEST(error < place.tolerance, place.name << " " << what << ": " << error);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(embedding_places)

BOOST_AUTO_TEST_CASE(embeddings) {
    for (const auto& config : {tiny_llama(), tiny_qwen3(), tiny_wide_heads()}) {
        const TinyModel tiny(config);
        const auto samples = random_samples(config.vocabulary, lengths, 31);
        const auto layers = model::chosen_layers(config, "layers\\.2.*_proj");
        const auto rows = [&](const model::Decoder& decoder) {
            std::vector<Tensor> all;
            for (const std::int64_t rank : {0, 3})
                all.push_back(
                    (*embedding::make_jvp_encoder(decoder, 2, {2, rank}, 43, 1 << 20))(samples, three_batches));
            all.push_back((*embedding::make_hidden_encoder(decoder, 2, 43, 10))(samples, three_batches));
            all.push_back(
                (*embedding::make_gradient_tail_encoder(decoder, layers, {8, 70, 43}))(samples, three_batches));
            return all;
        };
        const auto truth = rows(tiny.in_double());
        const std::vector<std::string> names{"dense jvp", "jvp", "hidden", "gradient-tail"};
        for (const auto& place : padded_places(tiny)) {
            const auto found = rows(place.decoder);
            // Rows are fp32 whatever they are computed in.
            const TestPlace rounded{place.name, place.decoder, std::max(place.tolerance, 1e-5)};
            for (std::size_t i = 0; i < names.size(); ++i) check(rounded, names[i], found[i], truth[i]);
        }
    }
}

BOOST_AUTO_TEST_CASE(label_probabilities_behind_a_prefix) {
    for (const auto& config : {tiny_llama(), tiny_qwen3(), tiny_wide_heads()}) {
        const TinyModel tiny(config);
        const auto samples = random_samples(config.vocabulary, {9, 2, 70, 5}, 31);
        const std::vector<std::int32_t> before{3, 1, 4, 1, 5, 9, 2, 6};
        const auto probabilities = [&](const model::Decoder& decoder, bool prefixed) {
            const auto prefix = model::read_prefix(decoder, before);
            const auto batch = model::pack_with_labels(decoder, samples, {2, 0, 3, 1});
            return model::label_log_probabilities(decoder, prefixed ? &prefix : nullptr, batch);
        };
        for (const auto& place : padded_places(tiny))
            for (const bool prefixed : {false, true})
                check(place, "label probabilities", probabilities(place.decoder, prefixed),
                      probabilities(tiny.in_double(), prefixed));
    }
}

BOOST_AUTO_TEST_SUITE_END()
