#pragma once
// The plan of a run: its stages, and what it needs of the machine. Every part of the program adds its own. Pure: no
// file, no MPI, no LibTorch.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "idistill/base/hash.hpp"
#include "idistill/base/machine_facts.hpp"
#include "idistill/plan/batch.hpp"
#include "idistill/plan/stage.hpp"

namespace idistill::plan {

struct RankLayout {
    int ranks = 1;
    int per_node = 1;  ///< ranks on the fullest node, the one that must fit
};

/// A rank with LibTorch, MPI and HDF5 loaded (measured).
inline constexpr double process_bytes = 205e6;
/// Beside that, of a rank on a GPU: LibTorch's CUDA half, cuBLAS, the driver's context (an estimate).
inline constexpr double gpu_process_bytes = 1.5e9;
/// Memory of a rank over what it holds at a time: holes between what is freed and allocated (measured: up to 1.08).
inline constexpr double heap_factor = 1.15;

/// Memory that something takes, in bytes; estimates. What grows with the inputs is counted, beside process_bytes.
struct Need {
    std::string what;
    double per_rank = 0.0;
    double over_ranks = 0.0;  ///< beside that, shared out over them
    double on_rank_0 = 0.0;   ///< beside that
    double per_node = 0.0;    ///< one copy in /dev/shm, all the time
    std::string remedy = {};  ///< what to use in its place, "fewer --landmarks"; empty: nothing
    /// Names of stages, and of what follows them (select_step), that it is held in: what one stage frees is there for
    /// the next. Empty: all of them.
    std::vector<std::string> during = {};
    std::vector<std::string> except = {};  ///< but not in these
    bool on_gpu = false;                   ///< per_rank is the GPU's, where ranks compute on GPUs

    [[nodiscard]] bool held_in(const std::string& stage) const;
};

/// What a run does beside its stages.
inline constexpr const char* load_step = "load";
inline constexpr const char* refine_step = "refine";
inline constexpr const char* select_step = "select";
inline constexpr const char* write_step = "write";

/// What every rank computes on, where that is a GPU.
struct Gpu {
    std::string name;
    double bytes = 0;             ///< its whole memory
    double free_bytes = 0;        ///< of it, on the rank that has least
    double flops_per_second = 0;  ///< that a run may count on
    double number_bytes = 4;      ///< of a weight or an activation
};
/// Intermediates of a pass over padded samples, and what the allocator keeps (model/padding.hpp: each of 256 MiB,
/// however long a sample is).
inline constexpr double gpu_working_bytes = 4e9;

/// A dataset of the result with its rows.
struct ResultDataset {
    std::string name;
    std::int64_t rows = 0;
    double row_bytes = 0.0;
};

class Plan {
public:
    std::vector<Stage> stages;  ///< in the order of the run
    std::vector<Need> needs;
    std::vector<ResultDataset> result;
    std::vector<std::string> notes;  ///< lines of `plan`'s head
    std::string disk_remedy;         ///< beside a larger disk, ", or use ..."
    std::optional<Gpu> gpu;
    Hash decisions;  ///< over all that is decided beside the stages

    [[nodiscard]] const Stage* find(std::string_view name) const;  ///< null where the run has no such stage
    [[nodiscard]] const Stage& stage(std::string_view name) const;
    /// A pass through the model in a stage: its largest micro-batch, and what is made of a unit.
    void add_pass(const std::string& stage, const PassBytes& pass, double unit_bytes);

    /// Over stages and decisions: must agree on all ranks, and between a run and its restart.
    [[nodiscard]] std::uint64_t hash() const;

    /// The most that a rank holds at a time.
    [[nodiscard]] double bytes_per_rank(int ranks) const;
    [[nodiscard]] double shared_bytes_per_node() const;
    /// The most that a rank's GPU holds at a time; 0 without one.
    [[nodiscard]] double bytes_on_gpu() const;
    /// What rank 0 takes beyond bytes_per_rank.
    [[nodiscard]] double bytes_on_rank_0(int ranks) const;
    [[nodiscard]] double bytes_per_node(const RankLayout& layout) const;
    [[nodiscard]] double state_bytes() const;
    [[nodiscard]] double result_bytes() const;
    /// State and result exist side by side while the result is written.
    [[nodiscard]] double disk_bytes() const { return state_bytes() + result_bytes(); }

    /// The stage or step in which the ranks of the fullest node hold most.
    [[nodiscard]] std::string fullest(const RankLayout& layout) const;

private:
    /// Names of stages and steps in which anything is held.
    [[nodiscard]] std::vector<std::string> moments() const;
    [[nodiscard]] double held(const std::string& moment, int ranks) const;
    [[nodiscard]] double with_process(double held_bytes) const;
    [[nodiscard]] double held_by_rank_0(const std::string& moment) const;
};

/// One thing that does not fit, and what to change.
struct Shortfall {
    std::string what;  ///< "memory of a node", "/dev/shm", "disk"
    double needed = 0;
    double available = 0;
    std::string remedy;
};
std::vector<Shortfall> shortfalls(const Plan& plan, const RankLayout& layout, const MachineFacts& facts);

/// Throws Error(too_large) with the first shortfall, if any.
void check_fits(const Plan& plan, const RankLayout& layout, const MachineFacts& facts);

/// Assumed speed of one CPU rank with one thread, for the times in describe(); a GPU's is measured.
inline constexpr double assumed_flops_per_second = 60e9;

/// The plan and what it needs as text: units per stage, FLOPs and times, bytes against what is there, what to change.
std::string describe(const Plan& plan, const RankLayout& layout, const MachineFacts& facts);

}  // namespace idistill::plan
