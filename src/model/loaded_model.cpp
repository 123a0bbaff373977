#include "idistill/model/loaded_model.hpp"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "idistill/base/error.hpp"
#include "idistill/comm/node.hpp"
#include "idistill/model/safetensors.hpp"

namespace idistill::model {

std::string agreed_fingerprint(comm::Communicator& comm, const std::string& option, const std::string& what,
                               const std::string& mine) {
    std::string agreed;
    const auto all = comm.all_gather(mine);
    for (std::size_t rank = 0; rank < all.size(); ++rank) {
        const auto& theirs = all[rank];
        if (agreed.empty()) agreed = theirs;
        if (!theirs.empty() && theirs != agreed)
            throw Error(ExitCode::bad_input,
                        {option, "sha256 of the " + what + " on the node of rank " + std::to_string(rank), agreed,
                         theirs, "The nodes have different copies of it: make them the same."});
    }
    return agreed;
}

LoadedModel load_model(comm::Communicator& comm, const std::string& directory, const ModelConfig& config,
                       const Place& place, const std::string& option) {
    const auto layout = weight_layout(config);
    if (!place.device.is_cpu() || place.dtype != torch::kFloat32) {
        std::string mine;
        auto decoder = std::make_unique<const Decoder>(
            read_decoder(directory, config, place, comm::node_place(comm).rank == 0 ? &mine : nullptr));
        return {nullptr, agreed_fingerprint(comm, option, "weights", mine), std::move(decoder)};
    }
    auto memory = std::make_unique<comm::NodeSharedMemory>(comm, layout.bytes);
    std::string mine;
    if (memory->is_writer()) mine = read_weights(directory, layout, memory->bytes());
    memory->publish();
    auto sha256 = agreed_fingerprint(comm, option, "weights", mine);
    auto decoder = std::make_unique<const Decoder>(config, layout, memory->bytes());
    return {std::move(memory), std::move(sha256), std::move(decoder)};
}

LoadedModel model_without_weights(const ModelConfig& config) {
    const auto layout = weight_layout(config);
    void* memory = mmap(nullptr, layout.bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error(ExitCode::internal_error, {"mmap", "", "success", std::strerror(errno), ""});
    std::shared_ptr<void> reserved(memory, [bytes = layout.bytes](void* start) { munmap(start, bytes); });
    auto decoder =
        std::make_unique<const Decoder>(config, layout, std::span(static_cast<std::byte*>(memory), layout.bytes));
    return {nullptr, {}, std::move(decoder), std::move(reserved)};
}

std::string geometry(const ModelConfig& config) {
    auto text = fmt::format("{} heads {}/{} x {}, epsilon {}, theta {}", config.family, config.heads, config.kv_heads,
                            config.head_dim, config.norm_epsilon, config.rope_theta);
    if (config.rope_scaling) {
        const auto& r = *config.rope_scaling;
        text += fmt::format(", rope {} {} {} {} {}", r.type, r.factor, r.low_frequency_factor, r.high_frequency_factor,
                            r.original_positions);
    }
    return text;
}

std::string shape(const ModelConfig& config) {
    return fmt::format("{}, {} blocks of {} and {}, vocabulary {}, biases {}{}{}, norms of q and k {}, embedding {}",
                       geometry(config), config.blocks, config.hidden, config.intermediate, config.vocabulary,
                       int{config.attention_bias}, int{config.attention_output_bias}, int{config.mlp_bias},
                       int{config.query_key_norm}, config.tied_embedding ? "tied" : "not tied");
}

}  // namespace idistill::model
