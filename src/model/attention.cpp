#include "attention.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <vector>

#include "idistill/model/continuation.hpp"
#include "idistill/model/kernels.hpp"
#include "idistill/model/precision.hpp"

namespace idistill::model {
namespace {

using model::ModelConfig;
using torch::Tensor;

constexpr std::int64_t query_chunk = 64;

/// (rows x kv_heads group head_dim) as (kv_heads x rows*group x head_dim): the heads that share a key lie side by side.
/// Of several samples (m x rows x ...): (m*kv_heads x ...).
Tensor by_head(const Tensor& x, const ModelConfig& c, std::int64_t group) {
    const auto rows = x.size(-2);
    return x.unflatten(-1, {c.kv_heads, group, c.head_dim}).transpose(-4, -3).reshape({-1, rows * group, c.head_dim});
}

/// Scores' numbers of keys that every query sees, the first ones: of one sample's queries, or of several samples'
/// (m x queries).
struct Visible {
    std::vector<std::int64_t> alone = {};
    Tensor together = {};
};

/// Of a matrix of scores.
double score_bytes(const ModelConfig& c, double queries, double keys) {
    return static_cast<double>(c.heads) * queries * keys * sizeof(float);
}

/// What is multiplied at once: one sample, whose queries come in chunks, or padded samples [first, first + m), whose
/// queries do where the scores of one sample are more than working memory.
class Tile {
public:
    Tile(const ModelConfig& c, const SampleRows& keys, const RowSubset& queries, std::int64_t first, std::int64_t m)
        : c_(c), keys_(keys), queries_(queries), first_(first), m_(m) {}

    /// Rows of the tile by head: x (R x ...) at the queries, or (T x ...) at the keys.
    [[nodiscard]] Tensor of_queries(const Tensor& x) const { return rows(queries_, x, group()); }
    [[nodiscard]] Tensor of_keys(const Tensor& x) const { return rows(keys_, x, 1); }
    /// Zeros where a sample has no query: what is summed over queries.
    [[nodiscard]] Tensor of_queries_alone(const Tensor& x) const {
        return queries_.padding ? by_head(queries_.padding->zero_filled(x, first_, m_), c_, group()) : of_queries(x);
    }
    /// The inverse, into rows of `x`.
    void put_queries(const Tensor& x, const Tensor& heads) const { put(queries_, x, heads, group()); }
    void put_keys(const Tensor& x, const Tensor& heads) const { put(keys_, x, heads, 1); }

    /// Calls body(first query, queries, keys seen, the same of each query), all of which see `first_keys` before the
    /// samples' own.
    template <class Body>
    void for_each_chunk(Body&& body, std::int64_t first_keys = 0) const {
        if (queries_.padding) {
            const auto position = queries_.index.defined() ? keys_.padding->position().index_select(0, queries_.index)
                                                           : queries_.padding->position();
            const auto visible = queries_.padding->repeated(position, first_, m_) + (first_keys + 1);
            const auto longest = queries_.padding->longest(first_, m_);
            const auto all_keys = first_keys + keys_.padding->longest(first_, m_);
            const auto most =
                keys_.padding->rows_at_once(score_bytes(c_, static_cast<double>(m_), static_cast<double>(all_keys)));
            for (std::int64_t first = 0; first < longest; first += most) {
                const auto count = std::min(most, longest - first);
                const auto keys = first + count < longest ? first_keys + keys_before(first + count) : all_keys;
                body(first, count, std::min(keys, all_keys), Visible{{}, visible.narrow(1, first, count)});
            }
            return;
        }
        const auto i = static_cast<std::size_t>(first_);
        const auto begin = queries_.position.begin() + queries_.offsets[i];
        const auto count = queries_.offsets[i + 1] - queries_.offsets[i];
        for (std::int64_t first = 0; first < count; first += query_chunk) {
            Visible visible{{begin + first, begin + std::min(first + query_chunk, count)}};
            for (auto& keys : visible.alone) keys += first_keys + 1;
            body(first, std::ssize(visible.alone), visible.alone.back(), visible);
        }
    }

private:
    [[nodiscard]] std::int64_t group() const { return c_.heads / c_.kv_heads; }

    /// Own keys that the queries before `end` see, as many as matrix units like: of one sample, as those that are cut
    /// into chunks are.
    [[nodiscard]] std::int64_t keys_before(std::int64_t end) const {
        const auto last = queries_.offsets[static_cast<std::size_t>(first_)] + end - 1;
        const auto blocks = queries_.position[static_cast<std::size_t>(last)] / Padding::aligned_rows + 1;
        return blocks * Padding::aligned_rows;
    }

    [[nodiscard]] Tensor rows(const SampleRows& of, const Tensor& x, std::int64_t group) const {
        if (of.padding) return by_head(of.padding->repeated(x, first_, m_), c_, group);
        return by_head(alone(of, x), c_, group);
    }
    void put(const SampleRows& of, const Tensor& x, const Tensor& heads, std::int64_t group) const {
        const auto rows = heads.size(1) / group;
        const auto by_row = heads.view({m_, c_.kv_heads, rows, group, c_.head_dim}).transpose(1, 2);
        if (of.padding) {
            of.padding->part(x, first_, m_).copy_(of.padding->rows_of(by_row.flatten(2), first_, m_));
        } else {
            alone(of, x).view({rows, c_.kv_heads, group, c_.head_dim}).copy_(by_row.squeeze(0));
        }
    }
    [[nodiscard]] Tensor alone(const SampleRows& of, const Tensor& x) const {
        const auto i = static_cast<std::size_t>(first_);
        return x.narrow(0, of.offsets[i], of.offsets[i + 1] - of.offsets[i]);
    }

    const ModelConfig& c_;
    const SampleRows& keys_;
    const RowSubset& queries_;
    std::int64_t first_, m_;
};

/// Calls body(tile) for all samples that have queries.
template <class Body>
void for_each_tile(const ModelConfig& c, const SampleRows& keys, const RowSubset& queries, Body&& body,
                   std::int64_t first_keys = 0) {
    if (queries.padding) {
        const auto scores = [&](double longest) {
            return score_bytes(c, longest, static_cast<double>(first_keys) + longest);
        };
        keys.padding->in_groups(scores, [&](std::int64_t first, std::int64_t m) {
            if (queries.padding->longest(first, m) > 0) body(Tile(c, keys, queries, first, m));
        });
        return;
    }
    for (std::int64_t i = 0; i < keys.samples(); ++i) {
        const auto at = static_cast<std::size_t>(i);
        if (queries.offsets[at + 1] > queries.offsets[at]) body(Tile(c, keys, queries, i, 1));
    }
}

/// scores <- softmax(scale scores) over the visible keys, zeros behind. Queries of a group lie side by side.
void visible_softmax_(Tensor& scores, std::int64_t group, const Visible& visible, double scale) {
    if (visible.together.defined())
        causal_softmax_(scores, group, visible.together, scale);
    else
        causal_softmax_(scores, group, visible.alone.data(), scale);
}

/// x y in the accumulate type, x in the type of y.
Tensor product(const Tensor& x, const Tensor& y) { return wide_bmm(x.to(y.scalar_type()), y); }

Tensor wide_zeros(const Tensor& like) { return at::zeros(like.sizes(), accumulating(like.options())); }
Tensor wide_empty(const Tensor& like) { return at::empty(like.sizes(), accumulating(like.options())); }

double scale_of(const ModelConfig& c) { return 1.0 / std::sqrt(static_cast<double>(c.head_dim)); }

/// Keys or values of samples behind those that all of them see first.
Tensor behind(const Tensor& first, const Tensor& own) {
    if (!first.defined() || first.size(1) == 0) return own;
    return at::cat({first.repeat({own.size(0) / first.size(0), 1, 1}), own}, 1);
}

/// Contiguous. A sample without queries leaves its keys' gradients as they are.
AttentionInput gradients_of(const AttentionInput& x) {
    const auto zeros = [](const Tensor& y) { return at::zeros(y.sizes(), y.options()); };
    return {at::empty(x.q.sizes(), x.q.options()), zeros(x.k), zeros(x.v)};
}

bool has_flash(const ModelConfig& c, const AttentionInput& input) {
    const bool narrow = input.q.scalar_type() == torch::kBFloat16 || input.q.scalar_type() == torch::kHalf;
    return input.q.is_cuda() && narrow && c.head_dim % 8 == 0 && c.head_dim <= 256;
}

/// PyTorch's flash attention over samples of any lengths. It wants a query at every key: of a subset the others are
/// zeros.
class Flash {
public:
    Flash(const ModelConfig& c, const AttentionInput& input, const SampleRows& samples, const RowSubset& queries)
        : c_(c),
          padding_(*samples.padding),
          index_(queries.index),
          rows_(samples.rows()),
          q_(heads(everywhere(input.q), c.heads)),
          k_(heads(input.k, c.kv_heads)),
          v_(heads(input.v, c.kv_heads)) {
        const auto longest = padding_.longest();
        std::tie(output_, log_sums_, state_, unused_, std::ignore) = at::_flash_attention_forward(
            q_, k_, v_, padding_.offsets(), padding_.offsets(), longest, longest, 0.0, true, false, scale_of(c_));
    }
    [[nodiscard]] Tensor output() const { return at_queries(output_); }
    [[nodiscard]] AttentionInput backward(const Tensor& gradient) const {
        const auto longest = padding_.longest();
        const auto [q, k, v] = at::_flash_attention_backward(heads(everywhere(gradient), c_.heads), q_, k_, v_, output_,
                                                             log_sums_, padding_.offsets(), padding_.offsets(), longest,
                                                             longest, 0.0, true, state_, unused_, scale_of(c_));
        return {at_queries(q), k.flatten(1), v.flatten(1)};
    }

private:
    [[nodiscard]] Tensor heads(const Tensor& x, std::int64_t count) const {
        return x.view({x.size(0), count, c_.head_dim});
    }
    [[nodiscard]] Tensor everywhere(const Tensor& x) const {
        return index_.defined() ? at::zeros({rows_, x.size(1)}, x.options()).index_copy_(0, index_, x) : x;
    }
    [[nodiscard]] Tensor at_queries(const Tensor& x) const {
        return (index_.defined() ? x.index_select(0, index_) : x).flatten(1);
    }

    const ModelConfig& c_;
    const Padding& padding_;
    Tensor index_;
    std::int64_t rows_;
    Tensor q_, k_, v_, output_, log_sums_, state_, unused_;
};

}  // namespace

Tensor keys_by_head(const ModelConfig& c, const Tensor& x) {
    return x.view({x.size(0), c.kv_heads, c.head_dim}).transpose(0, 1).clone(at::MemoryFormat::Contiguous);
}

Tensor attention(const ModelConfig& c, const AttentionInput& input, const SampleRows& samples, const RowSubset& queries,
                 const KeysAndValues* before) {
    if (before == nullptr && has_flash(c, input)) return Flash(c, input, samples, queries).output();
    const auto group = c.heads / c.kv_heads;
    const auto first_keys = before == nullptr ? 0 : before->keys.size(1);
    auto result = at::empty({queries.rows(), c.heads * c.head_dim}, input.q.options());
    for_each_tile(
        c, samples, queries,
        [&](const Tile& tile) {
            const auto q = tile.of_queries(input.q);
            const auto k = behind(before == nullptr ? Tensor() : before->keys, tile.of_keys(input.k));
            const auto v = behind(before == nullptr ? Tensor() : before->values, tile.of_keys(input.v));
            auto o = at::empty_like(q);
            tile.for_each_chunk(
                [&](std::int64_t first, std::int64_t count, std::int64_t keys, const Visible& visible) {
                    const auto chunk = [&](const Tensor& x) { return x.narrow(1, first * group, count * group); };
                    auto p = product(chunk(q), k.narrow(1, 0, keys).transpose(1, 2));
                    visible_softmax_(p, group, visible, scale_of(c));
                    chunk(o).copy_(product(p, v.narrow(1, 0, keys)));
                },
                first_keys);
            tile.put_queries(result, o);
        },
        first_keys);
    return result;
}

AttentionInput attention_backward(const ModelConfig& c, const AttentionInput& input, const SampleRows& samples,
                                  const RowSubset& queries, const Tensor& gradient) {
    if (has_flash(c, input)) return Flash(c, input, samples, queries).backward(gradient);
    const auto group = c.heads / c.kv_heads;
    AttentionInput gradients = gradients_of(input);
    for_each_tile(c, samples, queries, [&](const Tile& tile) {
        const auto q = tile.of_queries(input.q), go = tile.of_queries_alone(gradient);
        const auto k = tile.of_keys(input.k), v = tile.of_keys(input.v);
        auto gq = wide_empty(q), gk = wide_zeros(k), gv = wide_zeros(v);
        tile.for_each_chunk([&](std::int64_t first, std::int64_t count, std::int64_t keys, const Visible& visible) {
            const auto chunk = [&](const Tensor& x) { return x.narrow(1, first * group, count * group); };
            const auto seen = [&](const Tensor& x) { return x.narrow(1, 0, keys); };
            auto p = product(chunk(q), seen(k).transpose(1, 2));
            visible_softmax_(p, group, visible, scale_of(c));
            add_product_(seen(gv), p.transpose(1, 2), chunk(go));
            auto gs = product(chunk(go), seen(v).transpose(1, 2));
            softmax_jacobian_(gs, p, scale_of(c));
            chunk(gq).copy_(product(gs, seen(k)));
            add_product_(seen(gk), gs.transpose(1, 2), chunk(q));
        });
        tile.put_queries(gradients.q, gq);
        tile.put_keys(gradients.k, gk);
        tile.put_keys(gradients.v, gv);
    });
    return gradients;
}

// Of every intermediate the tangent follows by the product rule: scores s = q k', p = softmax(c s), z = g v' and the
// gradient of the scores c p o (z - <p, z>).
AttentionGradients attention_backward_tangent(const ModelConfig& c, const AttentionInput& input,
                                              const AttentionInput& input_tangent, const SampleRows& samples,
                                              const RowSubset& queries, const Tensor& gradient,
                                              const Tensor& gradient_tangent) {
    const auto group = c.heads / c.kv_heads;
    const auto scale = scale_of(c);
    AttentionGradients gradients{gradients_of(input), gradients_of(input)};
    for_each_tile(c, samples, queries, [&](const Tile& tile) {
        const auto q = tile.of_queries(input.q), dq = tile.of_queries(input_tangent.q);
        const auto k = tile.of_keys(input.k), dk = tile.of_keys(input_tangent.k);
        const auto v = tile.of_keys(input.v), dv = tile.of_keys(input_tangent.v);
        const auto go = tile.of_queries_alone(gradient), dgo = tile.of_queries_alone(gradient_tangent);
        auto gq = wide_empty(q), dgq = wide_empty(q);
        auto gk = wide_zeros(k), dgk = wide_zeros(k), gv = wide_zeros(v), dgv = wide_zeros(v);
        tile.for_each_chunk([&](std::int64_t first, std::int64_t count, std::int64_t keys, const Visible& visible) {
            const auto chunk = [&](const Tensor& x) { return x.narrow(1, first * group, count * group); };
            const auto seen = [&](const Tensor& x) { return x.narrow(1, 0, keys); };
            const auto turned = [&](const Tensor& x) { return seen(x).transpose(1, 2); };
            auto p = product(chunk(q), turned(k));
            visible_softmax_(p, group, visible, scale);
            auto dp = product(chunk(dq), turned(k));
            add_product_(dp, chunk(q), turned(dk));
            softmax_jacobian_(dp, p, scale);
            add_product_(seen(gv), p.transpose(1, 2), chunk(go));
            add_product_(seen(dgv), dp.transpose(1, 2), chunk(go));
            add_product_(seen(dgv), p.transpose(1, 2), chunk(dgo));
            const auto z = product(chunk(go), turned(v));
            auto dz = product(chunk(dgo), turned(v));
            add_product_(dz, chunk(go), turned(dv));
            const auto centred = z - (p * z).sum(-1, true);
            const auto gs = scale * p * centred;
            const auto dgs = scale * (dp * centred + p * (dz - (dp * z + p * dz).sum(-1, true)));
            chunk(gq).copy_(product(gs, seen(k)));
            chunk(dgq).copy_(product(dgs, seen(k)) + product(gs, seen(dk)));
            add_product_(seen(gk), gs.transpose(1, 2), chunk(q));
            add_product_(seen(dgk), dgs.transpose(1, 2), chunk(q));
            add_product_(seen(dgk), gs.transpose(1, 2), chunk(dq));
        });
        const auto put = [&](const AttentionInput& into, const Tensor& of_q, const Tensor& of_k, const Tensor& of_v) {
            tile.put_queries(into.q, of_q);
            tile.put_keys(into.k, of_k);
            tile.put_keys(into.v, of_v);
        };
        put(gradients.value, gq, gk, gv);
        put(gradients.tangent, dgq, dgk, dgv);
    });
    return gradients;
}

Tensor attention_with_tangents(const ModelConfig& c, const AttentionInput& stacked, const SampleRows& samples,
                               const RowSubset& queries, std::int64_t tangents) {
    const auto group = c.heads / c.kv_heads;
    const auto query_rows = queries.rows(), key_rows = samples.rows();
    auto result = at::empty({(1 + tangents) * query_rows, c.heads * c.head_dim}, stacked.q.options());
    for_each_tile(c, samples, queries, [&](const Tile& tile) {
        std::vector<Tensor> q, k, v, o;  // the primal, then the tangents
        for (std::int64_t stream = 0; stream <= tangents; ++stream) {
            q.push_back(tile.of_queries(stacked.q.narrow(0, stream * query_rows, query_rows)));
            k.push_back(tile.of_keys(stacked.k.narrow(0, stream * key_rows, key_rows)));
            v.push_back(tile.of_keys(stacked.v.narrow(0, stream * key_rows, key_rows)));
            o.push_back(at::empty_like(q.back()));
        }
        tile.for_each_chunk([&](std::int64_t first, std::int64_t count, std::int64_t keys, const Visible& visible) {
            const auto chunk = [&](const Tensor& x) { return x.narrow(1, first * group, count * group); };
            const auto seen = [&](const Tensor& x) { return x.narrow(1, 0, keys); };
            auto p = product(chunk(q[0]), seen(k[0]).transpose(1, 2));
            visible_softmax_(p, group, visible, scale_of(c));
            chunk(o[0]).copy_(product(p, seen(v[0])));
            for (std::size_t t = 1; t < q.size(); ++t) {
                auto tangent = product(chunk(q[t]), seen(k[0]).transpose(1, 2));
                add_product_(tangent, chunk(q[0]), seen(k[t]).transpose(1, 2));
                softmax_jacobian_(tangent, p, scale_of(c));
                auto out = product(tangent, seen(v[0]));
                add_product_(out, p, seen(v[t]));
                chunk(o[t]).copy_(out);
            }
        });
        for (std::int64_t stream = 0; stream <= tangents; ++stream)
            tile.put_queries(result.narrow(0, stream * query_rows, query_rows), o[static_cast<std::size_t>(stream)]);
    });
    return result;
}

}  // namespace idistill::model
