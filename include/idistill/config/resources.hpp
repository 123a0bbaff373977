#pragma once
// What a run needs, and whether it fits: `idistill_mpi plan`, and the check before a run starts.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "idistill/config/plan.hpp"

namespace idistill::config {

struct RankLayout {
    int ranks = 1;
    int per_node = 1;  ///< ranks on the fullest node, the one that must fit
};

/// Estimates, in bytes and FLOPs. What grows with the inputs is counted; libraries and buffers are one allowance per
/// rank.
struct Resources {
    RankLayout layout;
    double weight_bytes_per_node = 0;      ///< one copy, in shared memory
    double optimizer_bytes_per_node = 0;   ///< factors of the chosen parameters (--optimizer), one copy, beside them
    double process_bytes_per_rank = 0;     ///< program and libraries
    double index_bytes_per_rank = 0;       ///< lengths, labels, sources of every sample; work units
    double activation_bytes_per_rank = 0;  ///< of one micro-batch, the larger of gradient and embedding pass
    double sketch_bytes_per_rank = 0;      ///< sketches and what makes them; with contraction the tasks' gradients
    double curvature_bytes_per_rank = 0;   ///< with --curvature hessian: its directions, of all chosen parameters
    double embedding_bytes_per_rank = 0;   ///< random directions, projection
    double landmark_bytes_per_rank = 0;    ///< embeddings, influences and coefficients of the landmarks
    double selection_bytes_per_rank = 0;   ///< with --selection weighted: influences of the rank's rows
    double solve_bytes_on_rank_0 = 0;      ///< kernel, its eigenvectors and workspace, fp64
    double state_file_bytes = 0;
    double result_file_bytes = 0;
    double target_flops = 0, direction_flops = 0, curvature_flops = 0, landmark_flops = 0, solve_flops = 0,
           pool_flops = 0, refine_flops = 0;

    [[nodiscard]] double bytes_per_rank() const {
        return process_bytes_per_rank + index_bytes_per_rank + activation_bytes_per_rank + sketch_bytes_per_rank +
               curvature_bytes_per_rank + embedding_bytes_per_rank + landmark_bytes_per_rank + selection_bytes_per_rank;
    }
    [[nodiscard]] double bytes_per_node() const {
        return shared_bytes_per_node() + layout.per_node * bytes_per_rank() + solve_bytes_on_rank_0;
    }
    [[nodiscard]] double shared_bytes_per_node() const { return weight_bytes_per_node + optimizer_bytes_per_node; }
    /// State and result exist side by side while the result is written.
    [[nodiscard]] double disk_bytes() const { return state_file_bytes + result_file_bytes; }
};

/// Of a run or, if that is the command, of `embed`. Pure.
Resources estimate(const Settings& settings, const ModelConfig& model, const Plan& plan, RankLayout layout);

/// What `select` reads.
struct ResultShape {
    std::int64_t rows = 0;
    std::int64_t columns = 0;
    std::int64_t curvature_columns = 0;  ///< of the Hessian's factor, for a selection by it
    bool with_optimizer = false;
    double bytes = 0.0;  ///< of the file, which is copied
};

/// Of `select`. Pure.
Resources estimate_selection(const Settings& settings, const ResultShape& result, RankLayout layout);

/// What this machine has; nothing where it does not say.
struct MachineFacts {
    std::optional<double> free_memory_bytes;         ///< read_free_memory()
    std::optional<double> free_shared_memory_bytes;  ///< /dev/shm
    std::optional<double> free_disk_bytes;           ///< where `out` will be
};
MachineFacts read_machine_facts(const std::string& out);

/// What this process can still take: the least of MemAvailable and what the limits of its memory cgroups (version 1 or
/// 2, its own and all above) leave, where cache that can be dropped counts as free. `root`: before /proc and /sys.
std::optional<double> read_free_memory(const std::string& root = {});

/// One thing that does not fit, and what to change.
struct Shortfall {
    std::string what;  ///< "memory of a node", "/dev/shm", "disk"
    double needed = 0;
    double available = 0;
    std::string remedy;
};
std::vector<Shortfall> shortfalls(const Settings& settings, const Resources& resources, const MachineFacts& facts);

/// Throws Error(too_large) with the first shortfall, if any.
void check_fits(const Settings& settings, const Resources& resources, const MachineFacts& facts);

/// Assumed speed of one CPU rank with one thread, for the times in describe().
inline constexpr double assumed_flops_per_second = 60e9;

/// The plan and what it needs as text: units per stage, FLOPs and times, bytes against what is there, what to change.
/// Pure.
std::string describe(const Settings& settings, const Plan& plan, const Resources& resources, const MachineFacts& facts);

}  // namespace idistill::config
