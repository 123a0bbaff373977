#pragma once
// Stage 1: everything that is decided before the model is loaded. A pure function of settings and sizes; no MPI, no LibTorch.

#include <cstdint>
#include <string>
#include <vector>

#include "idistill/config/model_config.hpp"
#include "idistill/config/settings.hpp"
#include "idistill/data/token_file.hpp"
#include "idistill/data/work_unit.hpp"

namespace idistill::config {

enum class QuarantineReason : std::uint8_t { empty, no_labels, no_labels_after_truncation, non_finite };

struct Quarantined {
    std::int64_t row = 0;
    std::string reason;  ///< "empty", "no label tokens", ...
};

/// FLOPs the mathematics needs, per sample, from lengths (multiply and add are two). Used for planning, progress and the bench.
class CostModel {
public:
    CostModel(const ModelConfig& model, const Settings& settings);
    /// Forward, backward for activations down to the lowest chosen layer, sketch, norms.
    [[nodiscard]] double gradient(std::int64_t tokens, std::int64_t labels) const;
    /// Embedding pass and the kernel row with its product.
    [[nodiscard]] double embed_and_propagate(std::int64_t tokens, std::int64_t landmarks, std::int64_t columns) const;
    [[nodiscard]] double embedding(std::int64_t tokens) const;

private:
    ModelConfig model_;
    std::int64_t jvp_blocks_, jvp_tangents_, jvp_rank_, sketch_side_, lowest_block_;
    std::vector<LinearLayer> layers_;
    bool hidden_;
    std::string sketch_;
    std::int64_t sketch_dim_;
};

struct Plan {
    std::vector<std::int64_t> target_rows;    ///< (M) rows of the target corpus that are kept, in order
    std::vector<std::int32_t> target_task;    ///< (M) their task
    std::vector<Quarantined> pool_quarantine;
    std::vector<Quarantined> target_quarantine;
    std::vector<std::uint8_t> eligible;       ///< (N)
    std::vector<std::int64_t> landmarks;      ///< (L) pool rows, in the order of the seeded permutation
    std::vector<data::WorkUnit> target_units;    ///< over target_rows; none crosses a task
    std::vector<data::WorkUnit> landmark_units;  ///< over landmarks
    std::vector<data::WorkUnit> pool_units;      ///< over pool rows
    std::int64_t embedding_width = 0;            ///< e
    std::int64_t sketch_width = 0;               ///< k
    std::uint64_t hash = 0;                      ///< over all of the above; must agree on all ranks
};

/// What the run needs, for `idistill_mpi plan`. Bytes and FLOPs; per rank where `_per_rank`.
struct Resources {
    double weight_bytes_per_node = 0, activation_bytes_per_rank = 0, sketch_bytes_per_rank = 0, landmark_bytes_per_rank = 0,
           solve_bytes_on_rank_0 = 0, index_bytes_per_rank = 0, state_file_bytes = 0, result_file_bytes = 0;
    double target_flops = 0, landmark_flops = 0, pool_flops = 0;
};

/// `tasks`: number of the first target row of every task and the end (tasks + 1 entries) in the target corpus.
/// With propagation "none" there are no landmarks and the pool units are costed by the gradient pass.
Plan make_plan(const Settings& settings, const ModelConfig& model, const data::CorpusIndex& pool,
               const data::CorpusIndex& targets, const std::vector<std::int64_t>& tasks);

Resources estimate(const Settings& settings, const ModelConfig& model, const Plan& plan, std::int64_t pool_rows, int ranks,
                   int ranks_per_node);

/// The plan and what it needs as text: units per stage, bytes, FLOPs, /dev/shm and disk against what is there, what to change.
std::string describe(const Settings& settings, const ModelConfig& model, const Plan& plan, const Resources& resources, int ranks);

}  // namespace idistill::config
