#include "idistill/model/packed_batch.hpp"

#include <ATen/ATen.h>

namespace idistill::model {

PackedBatch pack(const Decoder& decoder, const data::Samples& samples, const std::vector<std::int64_t>& chosen,
                 const std::vector<std::int64_t>& lengths) {
    PackedBatch batch;
    batch.offsets.push_back(0);
    for (const auto length : lengths) batch.offsets.push_back(batch.offsets.back() + length);
    std::vector<std::int64_t> tokens, positions;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
        const auto* first = samples.tokens.data() + samples.offsets[static_cast<std::size_t>(chosen[i])];
        tokens.insert(tokens.end(), first, first + lengths[i]);
        for (std::int64_t p = 0; p < lengths[i]; ++p) positions.push_back(p);
    }
    const auto device = decoder.options().device();
    batch.tokens = on_device(tokens, device);
    if (decoder.pads()) batch.padding = std::make_shared<const Padding>(batch.offsets, device);
    batch.rotation = decoder.rotation(batch.padding ? batch.padding->position() : on_device(positions, device));
    return batch;
}

RowSubset all_rows(const PackedBatch& batch) {
    RowSubset rows{batch, {}, {}};
    rows.position.reserve(static_cast<std::size_t>(batch.rows()));
    for (std::int64_t i = 0; i < batch.samples(); ++i) {
        const auto sample = static_cast<std::size_t>(i);
        for (std::int64_t p = 0; p < batch.offsets[sample + 1] - batch.offsets[sample]; ++p) rows.position.push_back(p);
    }
    return rows;
}

RowSubset rows_at(const PackedBatch& batch, const std::vector<std::vector<std::int64_t>>& positions) {
    RowSubset rows;
    rows.offsets.push_back(0);
    std::vector<std::int64_t> index;
    for (std::size_t i = 0; i < positions.size(); ++i) {
        for (const auto position : positions[i]) {
            rows.position.push_back(position);
            index.push_back(batch.offsets[i] + position);
        }
        rows.offsets.push_back(static_cast<std::int64_t>(index.size()));
    }
    const auto device = batch.tokens.device();
    rows.index = on_device(index, device);
    if (batch.padding) rows.padding = std::make_shared<const Padding>(rows.offsets, device);
    return rows;
}

RowSubset last_rows(const PackedBatch& batch) {
    std::vector<std::vector<std::int64_t>> positions;
    for (std::size_t i = 0; i + 1 < batch.offsets.size(); ++i)
        positions.push_back({batch.offsets[i + 1] - batch.offsets[i] - 1});
    return rows_at(batch, positions);
}

torch::Tensor take_rows(const torch::Tensor& x, const RowSubset& rows) {
    return rows.index.defined() ? x.index_select(0, rows.index) : x;
}

}  // namespace idistill::model
