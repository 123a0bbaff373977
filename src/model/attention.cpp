#include "attention.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "idistill/model/continuation.hpp"
#include "idistill/model/kernels.hpp"

namespace idistill::model {
namespace {

using model::ModelConfig;
using torch::Tensor;

constexpr std::int64_t query_chunk = 64;

/// One sample's place in the batch: its keys' rows, its queries' rows and their positions.
struct Sample {
    std::int64_t key_begin, keys, query_begin, queries;
    const std::int64_t* position;
};

Sample sample_at(const std::vector<std::int64_t>& offsets, const RowSubset& queries, std::size_t i) {
    return {offsets[i], offsets[i + 1] - offsets[i], queries.offsets[i], queries.offsets[i + 1] - queries.offsets[i],
            queries.position.data() + queries.offsets[i]};
}

/// Rows [begin, begin + count) of x as (kv_heads x count*group x head_dim): the heads that share a key lie side by
/// side.
Tensor heads_of(const Tensor& x, std::int64_t begin, std::int64_t count, const ModelConfig& c, std::int64_t group) {
    return x.narrow(0, begin, count)
        .view({count, c.kv_heads, group, c.head_dim})
        .permute({1, 0, 2, 3})
        .reshape({c.kv_heads, count * group, c.head_dim});
}

/// The inverse of heads_of, into rows of `x`.
void put_heads(const Tensor& x, std::int64_t begin, std::int64_t count, const ModelConfig& c, std::int64_t group,
               const Tensor& heads) {
    x.narrow(0, begin, count)
        .view({count, c.kv_heads, group, c.head_dim})
        .copy_(heads.view({c.kv_heads, count, group, c.head_dim}).permute({1, 0, 2, 3}));
}

/// Calls body(first query, queries, keys seen, counts of keys seen by each query) for every chunk of a sample's
/// queries, all of which see `first_keys` before the sample's own.
template <class Body>
void for_each_chunk(const Sample& sample, Body&& body, std::int64_t first_keys = 0) {
    std::vector<std::int64_t> valid;
    for (std::int64_t first = 0; first < sample.queries; first += query_chunk) {
        const auto count = std::min(query_chunk, sample.queries - first);
        valid.assign(sample.position + first, sample.position + first + count);
        for (auto& keys : valid) keys += first_keys + 1;
        body(first, count, valid.back(), valid);
    }
}

double scale_of(const ModelConfig& c) { return 1.0 / std::sqrt(static_cast<double>(c.head_dim)); }

/// Keys or values of samples behind those that all of them see first: these stay where they are, a sample's own take
/// the place of the one's before it.
class Behind {
public:
    /// `first` (kv_heads x T x head_dim; undefined: none); samples of at most `most` keys.
    Behind(const Tensor& first, std::int64_t most) : first_(first.defined() ? first.size(1) : 0) {
        if (first_ == 0) return;
        room_ = at::empty({first.size(0), first_ + most, first.size(2)}, first.options());
        room_.narrow(1, 0, first_).copy_(first);
    }
    [[nodiscard]] Tensor operator()(const Tensor& own) const {
        if (first_ == 0) return own;
        room_.narrow(1, first_, own.size(1)).copy_(own);
        return room_.narrow(1, 0, first_ + own.size(1));
    }

private:
    std::int64_t first_;
    Tensor room_;
};

std::int64_t longest_of(const std::vector<std::int64_t>& offsets) {
    std::int64_t longest = 0;
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) longest = std::max(longest, offsets[i + 1] - offsets[i]);
    return longest;
}

}  // namespace

Tensor keys_by_head(const ModelConfig& c, const Tensor& x) {
    return x.view({x.size(0), c.kv_heads, c.head_dim}).transpose(0, 1).clone(at::MemoryFormat::Contiguous);
}

Tensor attention(const ModelConfig& c, const AttentionInput& input, const std::vector<std::int64_t>& offsets,
                 const RowSubset& queries, const KeysAndValues* before) {
    const auto group = c.heads / c.kv_heads;
    const auto longest = longest_of(offsets);
    const Behind keys_behind(before == nullptr ? Tensor() : before->keys, longest),
        values_behind(before == nullptr ? Tensor() : before->values, longest);
    const auto first_keys = before == nullptr ? 0 : before->keys.size(1);
    auto result = at::empty({queries.rows(), c.heads * c.head_dim}, input.q.options());
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
        const auto sample = sample_at(offsets, queries, i);
        if (sample.queries == 0) continue;
        const auto q = heads_of(input.q, sample.query_begin, sample.queries, c, group);
        const auto k = keys_behind(heads_of(input.k, sample.key_begin, sample.keys, c, 1));
        const auto v = values_behind(heads_of(input.v, sample.key_begin, sample.keys, c, 1));
        auto o = at::empty_like(q);
        for_each_chunk(
            sample,
            [&](std::int64_t first, std::int64_t count, std::int64_t keys, const std::vector<std::int64_t>& valid) {
                auto p = at::bmm(q.narrow(1, first * group, count * group), k.narrow(1, 0, keys).transpose(1, 2));
                causal_softmax_(p, group, valid.data(), scale_of(c));
                o.narrow(1, first * group, count * group).copy_(at::bmm(p, v.narrow(1, 0, keys)));
            },
            first_keys);
        put_heads(result, sample.query_begin, sample.queries, c, group, o);
    }
    return result;
}

AttentionInput attention_backward(const ModelConfig& c, const AttentionInput& input,
                                  const std::vector<std::int64_t>& offsets, const RowSubset& queries,
                                  const Tensor& gradient) {
    const auto group = c.heads / c.kv_heads;
    const auto contiguous_like = [](const Tensor& x) { return at::empty(x.sizes(), x.options()); };
    AttentionInput gradients{contiguous_like(input.q), contiguous_like(input.k), contiguous_like(input.v)};
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
        const auto sample = sample_at(offsets, queries, i);
        const auto q = heads_of(input.q, sample.query_begin, sample.queries, c, group);
        const auto k = heads_of(input.k, sample.key_begin, sample.keys, c, 1);
        const auto v = heads_of(input.v, sample.key_begin, sample.keys, c, 1);
        const auto go = heads_of(gradient, sample.query_begin, sample.queries, c, group);
        auto gq = at::empty_like(q);
        auto gk = at::zeros_like(k);
        auto gv = at::zeros_like(v);
        for_each_chunk(sample, [&](std::int64_t first, std::int64_t count, std::int64_t keys,
                                   const std::vector<std::int64_t>& valid) {
            const auto chunk = [&](const Tensor& x) { return x.narrow(1, first * group, count * group); };
            const auto seen = [&](const Tensor& x) { return x.narrow(1, 0, keys); };
            auto p = at::bmm(chunk(q), seen(k).transpose(1, 2));
            causal_softmax_(p, group, valid.data(), scale_of(c));
            seen(gv).baddbmm_(p.transpose(1, 2), chunk(go));
            auto gs = at::bmm(chunk(go), seen(v).transpose(1, 2));
            softmax_jacobian_(gs, p, scale_of(c));
            chunk(gq).copy_(at::bmm(gs, seen(k)));
            seen(gk).baddbmm_(gs.transpose(1, 2), chunk(q));
        });
        put_heads(gradients.q, sample.query_begin, sample.queries, c, group, gq);
        put_heads(gradients.k, sample.key_begin, sample.keys, c, 1, gk);
        put_heads(gradients.v, sample.key_begin, sample.keys, c, 1, gv);
    }
    return gradients;
}

// Of every intermediate the tangent follows by the product rule: scores s = q k', p = softmax(c s), z = g v' and the
// gradient of the scores c p o (z - <p, z>).
AttentionGradients attention_backward_tangent(const ModelConfig& c, const AttentionInput& input,
                                              const AttentionInput& input_tangent,
                                              const std::vector<std::int64_t>& offsets, const RowSubset& queries,
                                              const Tensor& gradient, const Tensor& gradient_tangent) {
    const auto group = c.heads / c.kv_heads;
    const auto scale = scale_of(c);
    const auto like = [](const AttentionInput& x) {
        const auto empty = [](const Tensor& y) { return at::empty(y.sizes(), y.options()); };
        return AttentionInput{empty(x.q), empty(x.k), empty(x.v)};
    };
    AttentionGradients gradients{like(input), like(input)};
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
        const auto sample = sample_at(offsets, queries, i);
        const auto of_queries = [&](const Tensor& x) {
            return heads_of(x, sample.query_begin, sample.queries, c, group);
        };
        const auto of_keys = [&](const Tensor& x) { return heads_of(x, sample.key_begin, sample.keys, c, 1); };
        const auto q = of_queries(input.q), dq = of_queries(input_tangent.q);
        const auto k = of_keys(input.k), dk = of_keys(input_tangent.k);
        const auto v = of_keys(input.v), dv = of_keys(input_tangent.v);
        const auto go = of_queries(gradient), dgo = of_queries(gradient_tangent);
        auto gq = at::empty_like(q), dgq = at::empty_like(q);
        auto gk = at::zeros_like(k), dgk = at::zeros_like(k), gv = at::zeros_like(v), dgv = at::zeros_like(v);
        for_each_chunk(sample, [&](std::int64_t first, std::int64_t count, std::int64_t keys,
                                   const std::vector<std::int64_t>& valid) {
            const auto chunk = [&](const Tensor& x) { return x.narrow(1, first * group, count * group); };
            const auto seen = [&](const Tensor& x) { return x.narrow(1, 0, keys); };
            const auto turned = [&](const Tensor& x) { return seen(x).transpose(1, 2); };
            auto p = at::bmm(chunk(q), turned(k));
            causal_softmax_(p, group, valid.data(), scale);
            auto dp = at::bmm(chunk(dq), turned(k));
            dp.baddbmm_(chunk(q), turned(dk));
            softmax_jacobian_(dp, p, scale);
            seen(gv).baddbmm_(p.transpose(1, 2), chunk(go));
            seen(dgv).baddbmm_(dp.transpose(1, 2), chunk(go));
            seen(dgv).baddbmm_(p.transpose(1, 2), chunk(dgo));
            const auto z = at::bmm(chunk(go), turned(v));
            auto dz = at::bmm(chunk(dgo), turned(v));
            dz.baddbmm_(chunk(go), turned(dv));
            const auto centred = z - (p * z).sum(-1, true);
            const auto gs = scale * p * centred;
            const auto dgs = scale * (dp * centred + p * (dz - (dp * z + p * dz).sum(-1, true)));
            chunk(gq).copy_(at::bmm(gs, seen(k)));
            chunk(dgq).copy_(at::bmm(dgs, seen(k)) + at::bmm(gs, seen(dk)));
            seen(gk).baddbmm_(gs.transpose(1, 2), chunk(q));
            seen(dgk).baddbmm_(dgs.transpose(1, 2), chunk(q));
            seen(dgk).baddbmm_(gs.transpose(1, 2), chunk(dq));
        });
        const auto put = [&](const AttentionInput& into, const Tensor& of_q, const Tensor& of_k, const Tensor& of_v) {
            put_heads(into.q, sample.query_begin, sample.queries, c, group, of_q);
            put_heads(into.k, sample.key_begin, sample.keys, c, 1, of_k);
            put_heads(into.v, sample.key_begin, sample.keys, c, 1, of_v);
        };
        put(gradients.value, gq, gk, gv);
        put(gradients.tangent, dgq, dgk, dgv);
    }
    return gradients;
}

Tensor attention_with_tangents(const ModelConfig& c, const AttentionInput& stacked,
                               const std::vector<std::int64_t>& offsets, const RowSubset& queries,
                               std::int64_t tangents) {
    const auto group = c.heads / c.kv_heads;
    const auto query_rows = queries.rows();
    const auto key_rows = offsets.back();
    auto result = at::empty({(1 + tangents) * query_rows, c.heads * c.head_dim}, stacked.q.options());
    for (std::size_t i = 0; i + 1 < offsets.size(); ++i) {
        const auto sample = sample_at(offsets, queries, i);
        if (sample.queries == 0) continue;
        std::vector<Tensor> q, k, v, o;  // the primal, then the tangents
        for (std::int64_t stream = 0; stream <= tangents; ++stream) {
            q.push_back(heads_of(stacked.q, stream * query_rows + sample.query_begin, sample.queries, c, group));
            k.push_back(heads_of(stacked.k, stream * key_rows + sample.key_begin, sample.keys, c, 1));
            v.push_back(heads_of(stacked.v, stream * key_rows + sample.key_begin, sample.keys, c, 1));
            o.push_back(at::empty_like(q.back()));
        }
        for_each_chunk(sample, [&](std::int64_t first, std::int64_t count, std::int64_t keys,
                                   const std::vector<std::int64_t>& valid) {
            const auto chunk = [&](const Tensor& x) { return x.narrow(1, first * group, count * group); };
            const auto seen = [&](const Tensor& x) { return x.narrow(1, 0, keys); };
            auto p = at::bmm(chunk(q[0]), seen(k[0]).transpose(1, 2));
            causal_softmax_(p, group, valid.data(), scale_of(c));
            chunk(o[0]).copy_(at::bmm(p, seen(v[0])));
            for (std::size_t t = 1; t < q.size(); ++t) {
                auto tangent = at::bmm(chunk(q[t]), seen(k[0]).transpose(1, 2));
                tangent.baddbmm_(chunk(q[0]), seen(k[t]).transpose(1, 2));
                softmax_jacobian_(tangent, p, scale_of(c));
                auto out = at::bmm(tangent, seen(v[0]));
                out.baddbmm_(p, seen(v[t]));
                chunk(o[t]).copy_(out);
            }
        });
        for (std::int64_t stream = 0; stream <= tangents; ++stream)
            put_heads(result, stream * query_rows + sample.query_begin, sample.queries, c, group,
                      o[static_cast<std::size_t>(stream)]);
    }
    return result;
}

}  // namespace idistill::model
