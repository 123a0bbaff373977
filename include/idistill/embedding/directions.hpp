#pragma once
// Random directions of the JVP embedding.

#include <cstdint>

#include "idistill/embedding/settings.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/passes.hpp"

namespace idistill::embedding {

/// K random directions over all parameters of the first `blocks` blocks and the token embedding: dense ones have
/// standard normal entries, low rank ones are A B' / sqrt(r) with standard normal A and B (the same variance an entry).
/// Norm weights and biases are always dense.
model::Directions random_directions(const model::Decoder& decoder, std::int64_t blocks, const JvpSettings& settings,
                                    std::uint64_t seed);

}  // namespace idistill::embedding
