#pragma once
// The list of influence functions.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "idistill/comm/communicator.hpp"
#include "idistill/data/token_file.hpp"
#include "idistill/options/option.hpp"
#include "idistill/plan/usable_rows.hpp"

namespace idistill::influence {

class Influence;

/// What a function measures influence on.
enum class TargetSamples : std::uint8_t {
    files,      ///< --target NAME=FILE
    landmarks,  ///< the labelled samples of the pool; without --landmarks all of its samples
    none        ///< nothing: it rates samples by themselves, in one column
};

/// Heading of the options of all influence functions.
inline constexpr const char* option_group = "Influence (exact, of targets and landmarks)";

struct Member {
    std::string name;
    std::string help;  ///< of its name
    std::unique_ptr<Influence> (*make)(const options::Values& values);
    std::vector<options::Option> (*options)() = nullptr;
    options::IdleRule idle = {};
    /// What it measures on where no --target is given; with files one must be given.
    TargetSamples without_target = TargetSamples::files;
    /// Opens its files and notes in the values what a plan needs of them. Throws Error(bad_input).
    void (*look_at_files)(options::Values& values) = nullptr;
    bool joins_samples = false;  ///< token files must say how samples stand in one conversation with others
    /// Collective, after it. Notes what a plan needs of the pool's samples, and gives those that it cannot rate, by
    /// row. Throws Error(bad_input).
    std::vector<plan::Quarantined> (*look_at_pool)(options::Values& values, comm::Communicator& comm,
                                                   const data::Corpus& pool) = nullptr;
    std::string own_task = {};                 ///< name of its one column, with TargetSamples::none
    std::vector<std::string> shares = {};      ///< options of other members that count for it too
    std::vector<std::string> of_extras = {};   ///< its options without effect unless a selection uses extras
    std::vector<std::string> of_columns = {};  ///< and where every sample is computed, on columns of tasks
};

std::span<const Member> members();

/// What the influence function that the values name measures on.
TargetSamples target_samples(const options::Values& values);
/// Whether it needs what Corpus::read_joints() reads.
bool joins_samples(const options::Values& values);
/// Throws Error(usage) for a --target that is missing, or that it has no use for.
void check_targets(const options::Values& values);
/// Names of the tasks, in order.
std::vector<std::string> task_names(const options::Values& values);

/// The option that names the influence function.
std::vector<options::Option> influence_options();

}  // namespace idistill::influence
