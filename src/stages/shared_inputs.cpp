#include "shared_inputs.hpp"

#include <fmt/format.h>

#include "idistill/report/error.hpp"

namespace idistill::stages {

config::CorpusShape shape_of(const data::Corpus& corpus) {
    config::CorpusShape shape{corpus.index(), {}};
    for (const auto& file : corpus.files()) shape.files.push_back({file.size(), file.max_length()});
    return shape;
}

void check_plans_agree(comm::Communicator& comm, std::uint64_t hash) {
    const auto all = comm.all_gather(std::span<const std::uint64_t>(&hash, 1));
    for (std::size_t rank = 0; rank < all.size(); ++rank)
        if (all[rank][0] != all[0][0])
            throw Error(ExitCode::internal_error,
                        {"plan", "hash of rank " + std::to_string(rank), std::to_string(all[0][0]),
                         std::to_string(all[rank][0]),
                         "The ranks see different files or run different programs: check the nodes' file systems."});
}

std::string geometry(const config::ModelConfig& c) {
    auto text = fmt::format("{} heads {}/{} x {}, epsilon {}, theta {}", c.family, c.heads, c.kv_heads, c.head_dim,
                            c.norm_epsilon, c.rope_theta);
    if (c.rope_scaling) {
        const auto& r = *c.rope_scaling;
        text += fmt::format(", rope {} {} {} {} {}", r.type, r.factor, r.low_frequency_factor, r.high_frequency_factor,
                            r.original_positions);
    }
    return text;
}

}  // namespace idistill::stages
