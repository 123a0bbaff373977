#pragma once
// Datasets of the files that a run, `select` and `embed` write, declared once: bytes are planned and values written by
// them.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "idistill/io/result_datasets.hpp"
#include "run.hpp"

namespace idistill::stages {

/// What sizes follow from; `columns` as planned, or as they are left.
struct ResultShape {
    const options::Values& values;
    const RunPlan& run;
    const data::CorpusIndex& pool;
    const data::CorpusIndex& targets;
    std::int64_t columns;
};

/// What the result says of some consecutive rows of the pool.
struct PoolRows {
    std::vector<float> influence;            ///< (rows x C); all NaN in a row that is not finite
    std::vector<std::vector<float>> extras;  ///< (rows x width) of every extra of the layout; linear ones likewise
    std::vector<float> score;                ///< (rows x tasks)
    std::vector<std::uint8_t> exact;         ///< (rows)
    std::span<const std::int32_t> tokens;    ///< (rows)
    std::span<const std::int32_t> source;    ///< (rows)
    std::vector<std::string> ids;            ///< (rows)
    std::vector<std::int64_t> not_finite;    ///< rows that the plan let through but whose influence is not finite
};
io::ResultDatasets<PoolRows> pool_datasets(const ResultShape& shape);

/// What stands beside them, but for what the members and the selection write.
struct Beside {
    const Run& run;
    const Labels* labels;  ///< null without propagation
    std::vector<plan::Quarantined> quarantine, target_quarantine;
};
io::ResultDatasets<Beside> datasets_beside(const ResultShape& shape);

/// /weight, of rows of the pool.
io::ResultDatasets<std::vector<float>> weight_datasets(std::int64_t pool_rows);

/// (k) in order of selection.
struct Selected {
    std::vector<std::int64_t> index;
    std::vector<std::string> ids;
    std::vector<float> weight;
    std::vector<std::int32_t> column;
};
io::ResultDatasets<Selected> selected_datasets(std::int64_t samples, std::int64_t longest_id);

/// What `embed` writes of some rows of the pool.
struct EmbeddedRows {
    std::vector<float> embedding;  ///< (rows x e)
    std::vector<std::string> ids;
};
io::ResultDatasets<EmbeddedRows> embedding_datasets(std::int64_t pool_rows, std::int64_t width,
                                                    std::int64_t longest_id);

}  // namespace idistill::stages
