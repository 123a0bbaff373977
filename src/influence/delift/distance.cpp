#include "idistill/influence/delift/distance.hpp"

#include <ATen/ATen.h>

#include "idistill/influence/gradient/passes.hpp"
#include "idistill/model/micro_batches.hpp"

namespace idistill::influence {

using torch::Tensor;

Tensor label_distances(const model::Decoder& decoder, const model::Prefix* prefix, const data::Samples& samples,
                       std::int64_t batch_tokens) {
    const auto fp64 = at::TensorOptions().dtype(torch::kFloat64);
    auto distances = at::empty({samples.size()}, fp64);
    model::for_each_micro_batch(micro_batches(samples, batch_tokens), [&](const std::vector<std::int64_t>& members) {
        const auto batch = model::pack_with_labels(decoder, samples, members);
        // 1 - p from the logarithm: near certainty the difference of the two would be rounding.
        const auto missing =
            model::label_log_probabilities(decoder, prefix, batch).to(torch::kCPU, torch::kFloat64).expm1();
        const auto counts = at::tensor(batch.labels.counts, at::TensorOptions().dtype(torch::kInt64));
        const auto squares =
            at::zeros({std::ssize(members)}, fp64).index_add_(0, at::repeat_interleave(counts), missing.square());
        distances.index_copy_(0, at::tensor(members, at::TensorOptions().dtype(torch::kInt64)),
                              (squares / counts).sqrt());
    });
    return distances;
}

data::Samples from_token(const data::Samples& samples, const std::vector<std::int32_t>& first) {
    data::Samples rest;
    rest.offsets.push_back(0);
    for (std::size_t i = 0; i < first.size(); ++i) {
        const auto begin = samples.offsets[i] + first[i], end = samples.offsets[i + 1];
        rest.tokens.insert(rest.tokens.end(), samples.tokens.begin() + begin, samples.tokens.begin() + end);
        rest.label_mask.insert(rest.label_mask.end(), samples.label_mask.begin() + begin,
                               samples.label_mask.begin() + end);
        rest.offsets.push_back(std::ssize(rest.tokens));
    }
    return rest;
}

}  // namespace idistill::influence
