// Attention of padded samples whose scores do not fit into working memory, in chunks of queries, against all at once.

#include <boost/test/unit_test.hpp>
#include <map>
#include <memory>

#include "../../src/model/attention.hpp"
#include "idistill/model/continuation.hpp"
#include "places.hpp"

using namespace idistill;
using namespace idistill::test;
using model::AttentionInput;
using model::Padding;
using model::RowSubset;

namespace {

const std::vector<std::int64_t> lengths{61, 60, 33, 17, 5, 1};
constexpr std::int64_t streams = 3;

struct Case {
    std::string name;
    at::TensorOptions options;
    double tolerance;
    model::PackedBatch batch;
    RowSubset queries;

    [[nodiscard]] Tensor numbers(std::int64_t rows, std::int64_t width, std::uint64_t seed) const {
        return normal({rows, width}, seed).to(options);
    }
    [[nodiscard]] AttentionInput input(const model::ModelConfig& c, std::int64_t times, std::uint64_t seed) const {
        const auto keys = times * batch.rows(), width = c.kv_heads * c.head_dim;
        return {numbers(times * queries.rows(), c.heads * c.head_dim, seed), numbers(keys, width, seed + 1),
                numbers(keys, width, seed + 2)};
    }
};

/// Every row; the last of each sample; every third, from one sample none.
std::vector<RowSubset> subsets(const model::PackedBatch& batch) {
    std::vector<std::vector<std::int64_t>> some;
    for (const auto length : lengths) {
        auto& rows = some.emplace_back();
        for (std::int64_t p = length == 5 ? 5 : length % 3; p < length; p += 3) rows.push_back(p);
    }
    return {model::all_rows(batch), model::last_rows(batch), model::rows_at(batch, some)};
}

std::vector<Case> cases(double working_bytes) {
    std::vector<Case> all;
    for (const auto& place : padded_places(TinyModel(tiny_llama()))) {
        const auto device = place.decoder.options().device();
        model::PackedBatch batch;
        batch.offsets.push_back(0);
        for (const auto length : lengths) batch.offsets.push_back(batch.offsets.back() + length);
        batch.tokens = at::zeros({batch.rows()}, at::TensorOptions().dtype(torch::kInt64).device(device));
        batch.padding = std::make_shared<const Padding>(batch.offsets, device, working_bytes);
        for (auto& queries : subsets(batch))
            all.push_back({place.name, place.decoder.options(), place.tolerance, batch, std::move(queries)});
    }
    return all;
}

/// By what they are of.
std::map<std::string, Tensor> results(const model::ModelConfig& c, const Case& of) {
    const auto in = of.input(c, 1, 1), along = of.input(c, 1, 11), stacked = of.input(c, streams, 21);
    const auto rows = of.queries.rows(), width = c.heads * c.head_dim;
    const auto gradient = of.numbers(rows, width, 31), gradient_tangent = of.numbers(rows, width, 32);
    const auto before = [&](std::uint64_t seed) {  // no multiple of what matrix units like
        return of.numbers(c.kv_heads * 5, c.head_dim, seed).view({c.kv_heads, 5, c.head_dim});
    };
    const model::KeysAndValues first{before(41), before(42)};
    const auto g = model::attention_backward(c, in, of.batch, of.queries, gradient);
    const auto t = model::attention_backward_tangent(c, in, along, of.batch, of.queries, gradient, gradient_tangent);
    return {{"outputs", model::attention(c, in, of.batch, of.queries)},
            {"outputs behind a beginning", model::attention(c, in, of.batch, of.queries, &first)},
            {"outputs with tangents", model::attention_with_tangents(c, stacked, of.batch, of.queries, streams - 1)},
            {"gradients of q", g.q},
            {"gradients of k", g.k},
            {"gradients of v", g.v},
            {"gradients of q beside tangents", t.value.q},
            {"tangents of gradients of q", t.tangent.q},
            {"tangents of gradients of k", t.tangent.k},
            {"tangents of gradients of v", t.tangent.v}};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_attention_padded)

BOOST_AUTO_TEST_CASE(chunks_of_queries_change_nothing) {
    const auto c = tiny_llama();
    const double scores = static_cast<double>(c.heads) * sizeof(float) * 64 * 64;
    const auto whole = cases(Padding::default_working_bytes);
    for (const double share : {0.9, 0.4, 0.01}) {  // the two longest samples alone are cut; all but the shortest
        const auto cut = cases(share * scores);
        for (std::size_t i = 0; i < cut.size(); ++i) {
            const auto truth = results(c, whole[i]), found = results(c, cut[i]);
            for (const auto& [what, values] : found) {
                const double error = relative_error(values.cpu(), truth.at(what).cpu());
                BOOST_TEST(error < cut[i].tolerance, cut[i].name << ", " << share << ": " << what << ": " << error);
            }
        }
    }
}

BOOST_AUTO_TEST_CASE(rows_that_fit_into_working_memory) {
    const Padding padding({0, 3}, torch::kCPU, 1000);
    BOOST_TEST(padding.rows_at_once(10) == 96);
    BOOST_TEST(padding.rows_at_once(125) == 8);
    BOOST_TEST(padding.rows_at_once(5000) == 8);
}

BOOST_AUTO_TEST_SUITE_END()
