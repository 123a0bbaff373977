#include "rows.hpp"

#include <cmath>

#include "idistill/base/error.hpp"
#include "idistill/data/work_unit.hpp"
#include "idistill/model/random.hpp"

namespace idistill::embedding {

using torch::Tensor;

std::vector<std::int32_t> lengths_of(const data::Samples& samples) {
    std::vector<std::int32_t> lengths;
    for (std::size_t i = 0; i + 1 < samples.offsets.size(); ++i)
        lengths.push_back(static_cast<std::int32_t>(samples.offsets[i + 1] - samples.offsets[i]));
    return lengths;
}

Tensor in_micro_batches(const model::Decoder& decoder, const std::vector<std::int32_t>& lengths, std::int64_t width,
                        std::int64_t batch_tokens,
                        const std::function<Tensor(const std::vector<std::int64_t>&)>& embed) {
    auto rows = at::zeros({static_cast<std::int64_t>(lengths.size()), width}, decoder.options());
    for (const auto& members : data::pack_micro_batches(lengths, batch_tokens))
        rows.index_copy_(0, at::tensor(members, at::TensorOptions().dtype(torch::kInt64)).to(rows.device()),
                         embed(members));
    return rows.to(torch::kFloat32);
}

Tensor projection(std::int64_t from, std::int64_t to, std::uint64_t seed, const at::TensorOptions& options) {
    if (to >= from) return {};
    return model::signs({seed, "embedding projection"}, {0, from}, to, 1.0 / std::sqrt(static_cast<double>(to)),
                        options);
}

Tensor project(const Tensor& x, const Tensor& matrix) { return matrix.defined() ? at::mm(x, matrix) : x; }

model::PackedBatch packed(const model::Decoder& decoder, const data::Samples& samples,
                          const std::vector<std::int32_t>& lengths, const std::vector<std::int64_t>& members) {
    std::vector<std::int64_t> own;
    for (const auto i : members) own.push_back(lengths[static_cast<std::size_t>(i)]);
    return model::pack(decoder, samples, members, own);
}

void check_blocks(const model::ModelConfig& config, std::int64_t blocks, const std::string& option,
                  const std::string& given, const std::string& remedy) {
    if (blocks <= config.blocks) return;
    throw Error(ExitCode::usage,
                {option, {}, "at most " + std::to_string(config.blocks) + ", the blocks of this model", given, remedy});
}

}  // namespace idistill::embedding
