// Packed attention in chunks against a triple loop over samples, heads, queries and keys in double.

#include <boost/test/unit_test.hpp>

#include "../../src/model/attention.hpp"
#include "tiny_decoder.hpp"

using namespace idistill;
using namespace idistill::test;
using model::AttentionInput;
using model::RowSubset;

namespace {

struct Heads {
    std::int64_t heads, kv_heads, head_dim;
};

model::ModelConfig shape_of(const Heads& h) {
    model::ModelConfig c;
    c.heads = h.heads;
    c.kv_heads = h.kv_heads;
    c.head_dim = h.head_dim;
    return c;
}

/// Samples of these lengths; the second is longer than two chunks of queries.
const std::vector<std::int64_t> offsets{0, 1, 171, 176, 240, 305};
const std::vector<std::int64_t> lengths{1, 170, 5, 64, 65};

model::PackedBatch batch_of_lengths() {
    model::PackedBatch batch;
    batch.offsets = offsets;
    batch.tokens = at::zeros({offsets.back()}, at::TensorOptions().dtype(torch::kInt64));
    return batch;
}

/// Every row; the last of each sample; every other row with one sample without any.
std::vector<RowSubset> subsets() {
    const auto batch = batch_of_lengths();
    std::vector<std::vector<std::int64_t>> some;
    for (const auto length : lengths) {
        auto& rows = some.emplace_back();
        for (std::int64_t p = length == 5 ? 5 : length % 2; p < length; p += 2) rows.push_back(p);
    }
    return {model::all_rows(batch), model::last_rows(batch), model::rows_at(batch, some)};
}

/// Columns of wider tensors, as the stacked projection makes them.
AttentionInput random_input(const Heads& h, std::int64_t query_rows, std::uint64_t seed) {
    const auto q = h.heads * h.head_dim, kv = h.kv_heads * h.head_dim;
    const auto rows = normal({offsets.back(), 2 * kv + 3}, seed);
    return {normal({query_rows, q + 5}, seed + 1).narrow(1, 2, q), rows.narrow(1, 1, kv), rows.narrow(1, kv + 1, kv)};
}

AttentionInput to_type(const AttentionInput& in, torch::ScalarType dtype) {
    return {in.q.to(dtype), in.k.to(dtype), in.v.to(dtype)};
}

Tensor naive(const Heads& h, const AttentionInput& in, const RowSubset& queries) {
    auto result = at::zeros({queries.rows(), h.heads * h.head_dim}, in.q.options());
    const auto q = in.q.contiguous(), k = in.k.contiguous(), v = in.v.contiguous();
    const auto* pq = q.const_data_ptr<double>();
    const auto* pk = k.const_data_ptr<double>();
    const auto* pv = v.const_data_ptr<double>();
    auto* out = result.mutable_data_ptr<double>();
    const auto q_width = h.heads * h.head_dim, kv_width = h.kv_heads * h.head_dim;
    for (std::size_t i = 0; i < lengths.size(); ++i)
        for (auto row = queries.offsets[i]; row < queries.offsets[i + 1]; ++row)
            for (std::int64_t head = 0; head < h.heads; ++head) {
                const auto key_column = head / (h.heads / h.kv_heads) * h.head_dim;
                double total = 0.0;
                for (std::int64_t key = 0; key <= queries.position[static_cast<std::size_t>(row)]; ++key) {
                    const auto key_at = (offsets[i] + key) * kv_width + key_column;
                    double score = 0.0;
                    for (std::int64_t d = 0; d < h.head_dim; ++d)
                        score += pq[row * q_width + head * h.head_dim + d] * pk[key_at + d];
                    const double weight = std::exp(score / std::sqrt(static_cast<double>(h.head_dim)));
                    total += weight;
                    for (std::int64_t d = 0; d < h.head_dim; ++d)
                        out[row * q_width + head * h.head_dim + d] += weight * pv[key_at + d];
                }
                for (std::int64_t d = 0; d < h.head_dim; ++d) out[row * q_width + head * h.head_dim + d] /= total;
            }
    return result;
}

/// Derivative of the naive attention along a direction.
Tensor naive_slope(const Heads& h, const AttentionInput& in, const AttentionInput& along, const RowSubset& queries) {
    constexpr double step = 1e-5;
    const auto moved = [&](double s) {
        return naive(h, {in.q + s * along.q, in.k + s * along.k, in.v + s * along.v}, queries);
    };
    return (moved(step) - moved(-step)) / (2 * step);
}

template <class Body>
void for_cases(Body&& body) {
    for (const auto& heads : {Heads{6, 2, 4}, Heads{3, 3, 6}, Heads{4, 1, 2}})
        for (const auto& queries : subsets()) body(heads, queries);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(model_attention)

BOOST_AUTO_TEST_CASE(each_sample_sees_its_own_past_alone) {
    for_cases([](const Heads& heads, const RowSubset& queries) {
        const auto in = random_input(heads, queries.rows(), 1);
        const auto truth = naive(heads, in, queries);
        BOOST_TEST(relative_error(attention(shape_of(heads), in, batch_of_lengths(), queries), truth) < 1e-13);
        const auto found = attention(shape_of(heads), to_type(in, torch::kFloat32), batch_of_lengths(), queries);
        BOOST_TEST(found.scalar_type() == torch::kFloat32);
        BOOST_TEST(relative_error(found, truth) < 2e-6);
    });
}

BOOST_AUTO_TEST_CASE(gradients_are_those_of_the_loop) {
    for_cases([](const Heads& heads, const RowSubset& queries) {
        const auto in = random_input(heads, queries.rows(), 1);
        const auto gradient = normal({queries.rows(), heads.heads * heads.head_dim}, 5);
        const auto g = attention_backward(shape_of(heads), in, batch_of_lengths(), queries, gradient);
        BOOST_TEST((g.q.is_contiguous() && g.k.is_contiguous() && g.v.is_contiguous()));
        const auto along = random_input(heads, queries.rows(), 9);
        const auto zero = [](const Tensor& x) { return at::zeros_like(x); };
        const auto check = [&](const Tensor& found, const Tensor& direction, const AttentionInput& only) {
            const double slope = (gradient * naive_slope(heads, in, only, queries)).sum().item<double>();
            const double size = found.norm().item<double>() * direction.norm().item<double>();
            BOOST_TEST(std::abs((found * direction).sum().item<double>() - slope) < 1e-9 * size + 1e-12);
        };
        check(g.q, along.q, {along.q, zero(in.k), zero(in.v)});
        check(g.k, along.k, {zero(in.q), along.k, zero(in.v)});
        check(g.v, along.v, {zero(in.q), zero(in.k), along.v});
        const auto single = attention_backward(shape_of(heads), to_type(in, torch::kFloat32), batch_of_lengths(),
                                               queries, gradient.to(torch::kFloat32));
        BOOST_TEST(relative_error(single.q, g.q) < 5e-6);
        BOOST_TEST(relative_error(single.k, g.k) < 5e-6);
        BOOST_TEST(relative_error(single.v, g.v) < 5e-6);
    });
}

BOOST_AUTO_TEST_CASE(tangents_are_those_of_the_loop) {
    for_cases([](const Heads& heads, const RowSubset& queries) {
        const auto in = random_input(heads, queries.rows(), 1), a = random_input(heads, queries.rows(), 11),
                   b = random_input(heads, queries.rows(), 21);
        const AttentionInput stacked{at::cat({in.q, a.q, b.q}), at::cat({in.k, a.k, b.k}), at::cat({in.v, a.v, b.v})};
        const auto truth = at::cat(
            {naive(heads, in, queries), naive_slope(heads, in, a, queries), naive_slope(heads, in, b, queries)});
        BOOST_TEST(relative_error(attention_with_tangents(shape_of(heads), stacked, batch_of_lengths(), queries, 2),
                                  truth) < 1e-8);
        BOOST_TEST(relative_error(attention_with_tangents(shape_of(heads), to_type(stacked, torch::kFloat32),
                                                          batch_of_lengths(), queries, 2),
                                  truth) < 5e-6);
    });
}

BOOST_AUTO_TEST_SUITE_END()
