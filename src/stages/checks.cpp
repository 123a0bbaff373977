// What is checked before anything large is loaded: one plan on all ranks, what it needs, and that OUT can be written.

#include <fmt/format.h>

#include <filesystem>

#include "idistill/base/error.hpp"
#include "idistill/base/log.hpp"
#include "idistill/comm/node.hpp"
#include "idistill/data/tokenizer_fingerprint.hpp"
#include "run.hpp"

namespace idistill::stages {
namespace {

struct Placed {
    plan::RankLayout layout;
    int here = 1;  ///< ranks on this node
};

/// Where the ranks are, with the number of ranks on the fullest node. Collective.
Placed placed(comm::Communicator& comm) {
    const int here = comm::node_place(comm).size;
    auto fullest_node = static_cast<std::int64_t>(here);
    comm.all_reduce(std::span(&fullest_node, 1), comm::Reduction::max);
    return {{comm.size(), static_cast<int>(fullest_node)}, here};
}

/// The processes themselves, which are there already, are not missing, nor is the state of an earlier start.
MachineFacts facts_beside(int processes, const std::string& out) {
    auto facts = read_machine_facts(out);
    if (facts.free_memory_bytes) *facts.free_memory_bytes += processes * plan::process_bytes;
    const auto state = out + ".state";
    if (facts.free_disk_bytes && std::filesystem::exists(state))
        *facts.free_disk_bytes += static_cast<double>(std::filesystem::file_size(state));
    return facts;
}

}  // namespace

void check_plans_agree(comm::Communicator& comm, std::uint64_t hash) {
    const auto all = comm.all_gather(std::span<const std::uint64_t>(&hash, 1));
    for (std::size_t rank = 0; rank < all.size(); ++rank)
        if (all[rank][0] != all[0][0])
            throw Error(ExitCode::internal_error,
                        {"plan", "hash of rank " + std::to_string(rank), std::to_string(all[0][0]),
                         std::to_string(all[rank][0]),
                         "The ranks see different files or run different programs: check the nodes' file systems."});
}

void check_resources(const Command& command, comm::Communicator& comm, const plan::Plan& plan) {
    const auto [layout, here] = placed(comm);
    if (!comm.is_root()) return;
    const auto& out = command.inputs().out;
    const auto facts = facts_beside(here, out);
    if (command.values.plan_only) {
        fmt::print("{}", plan::describe(plan, layout, facts));
        const auto folder = std::filesystem::absolute(out).parent_path();
        if (!std::filesystem::is_directory(folder))
            fmt::print("{} is not there yet: the run needs this folder.\n", folder.string());
        if (!command.inputs().overwrite && std::filesystem::exists(out))
            fmt::print("{} is there already: the run needs --overwrite, or another --out.\n", out);
    }
    plan::check_fits(plan, layout, facts);
}

void warn_of_other_tokenizers(const Command& command, comm::Communicator& comm,
                              std::initializer_list<const data::Corpus*> corpora) {
    if (!comm.is_root()) return;
    const auto& model = command.inputs().model;
    const auto [expected, reason] = data::tokenizer_fingerprint(model);
    std::vector<const data::TokenFile*> files;
    for (const auto* corpus : corpora)
        for (const auto& file : corpus->files()) files.push_back(&file);
    if (expected.empty())
        say("warning: nothing says whether the token files were prepared with the model's tokenizer: " + reason);
    for (const auto* file : files) {
        if (!expected.empty() && file->tokenizer_sha256() != expected)
            say(
                fmt::format("warning: {} was not prepared with the tokenizer in {}: prepare it again with --model {}, "
                            "unless the two map the same tokens",
                            file->path(), model, model));
        if (expected.empty() && file->tokenizer_sha256() != files.front()->tokenizer_sha256())
            say(fmt::format("warning: {} and {} were prepared with different tokenizers: prepare both with --model {}",
                            files.front()->path(), file->path(), model));
    }
}

void check_output_is_free(const Command& command, comm::Communicator& comm) {
    if (!comm.is_root()) return;
    const auto& out = command.inputs().out;
    if (std::filesystem::is_directory(out))
        throw Error(ExitCode::usage, {"--out", {}, "the name of a file", "the directory " + out, "Add a name to it."});
    if (!command.values.plan_only && !command.inputs().overwrite && std::filesystem::exists(out))
        throw Error(ExitCode::result_exists, {out, "", "no file of this name", "a finished result",
                                              "Choose another --out, or give --overwrite."});
}

}  // namespace idistill::stages
