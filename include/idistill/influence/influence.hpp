#pragma once
// The family of influence functions: exact influence of any samples on prepared columns.

#include <torch/types.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "idistill/data/sample_set.hpp"
#include "idistill/influence/layout.hpp"
#include "idistill/io/result_file.hpp"
#include "idistill/model/decoder.hpp"
#include "idistill/model/planner.hpp"
#include "idistill/options/values.hpp"
#include "idistill/work/work.hpp"

namespace idistill::influence {

/// What influence is on, the same on every rank. A member adds what it computes with.
struct Columns {
    Columns() = default;
    Columns(const Columns&) = delete;
    Columns& operator=(const Columns&) = delete;
    virtual ~Columns() = default;

    std::vector<std::int64_t> kept;      ///< places in UsableRows::target_rows of the targets that are left
    std::vector<std::int64_t> dropped;   ///< and of those that turned out not to be usable
    std::vector<std::int32_t> task;      ///< (C) of every column
    std::vector<std::int64_t> unusable;  ///< pool rows that turned out to have no influence, ascending
    /// (tasks) standard deviation of what a pool sample's mean influence on the columns of a task is wrong by; 0 where
    /// it is exact, NaN where that is not known; empty: exact.
    std::vector<double> task_error;
    [[nodiscard]] std::int64_t count() const { return std::ssize(task); }
};

/// Of n samples, fp32; NaN where a sample has no influence.
struct Rows {
    torch::Tensor logarithmic;  ///< (n x Layout::logarithms()), as they are; undefined without any
    torch::Tensor products;     ///< (n x columns that are left, then the other extras)
};

/// What other parts of the run ask of the influence.
struct Wanted {
    bool curvature_columns = false;  ///< the extra columns of CurvatureTerms
    bool whole_pool = false;         ///< rows of every sample, not of a few
};

/// One influence function. Calls come in this order: refused, plan, check_files, load, columns, rows. plan() is pure.
class Influence {
public:
    virtual ~Influence() = default;

    /// Rows of pool or targets, ascending, that it cannot use, whatever is beside them; known from lengths alone. Pure.
    [[nodiscard]] virtual std::vector<plan::Quarantined> refused(const model::ModelConfig& /*config*/,
                                                                 const data::CorpusIndex& /*index*/) const {
        return {};
    }
    /// Adds stages, needs and datasets, and fixes the layout. Throws Error(usage) for settings that these inputs cannot
    /// meet.
    virtual void plan(model::Planner& planner, const Wanted& wanted) = 0;
    [[nodiscard]] virtual const Layout& layout() const = 0;
    /// Planned FLOPs of the rows of one sample of the pool.
    [[nodiscard]] virtual double flops(const data::CorpusIndex& pool, std::int64_t row) const = 0;

    /// Bytes that rows() holds of its largest micro-batch, and of a unit; lengths are used_length().
    [[nodiscard]] virtual plan::PassBytes pass_bytes(const plan::Batch& largest) const = 0;
    [[nodiscard]] virtual double unit_bytes(const plan::Batch& largest) const = 0;

    /// False where it never looks at the weights of the model.
    [[nodiscard]] virtual bool reads_weights() const { return true; }
    /// False where it computes nothing with a model, be its weights those of --model or its own. Before plan() too.
    [[nodiscard]] virtual bool runs_model() const { return reads_weights(); }
    /// Opens its own input files and checks what can be checked before anything is loaded. Throws Error(bad_input).
    virtual void check_files([[maybe_unused]] const model::ModelConfig& config) const {}
    /// Collective. All of them outlive the influence.
    virtual void load(comm::Communicator& comm, const model::Decoder& decoder, const data::Corpus& pool,
                      const data::Corpus& targets) = 0;
    /// What of its inputs decides the numbers, as JSON; after load().
    virtual void identify(nlohmann::json& identity) const = 0;

    /// Collective: does the stages that it planned. `targets` is the pool itself with TargetSamples::landmarks; its
    /// rows are those of UsableRows::target_rows.
    virtual std::unique_ptr<Columns> columns(const work::Work& work, const data::Corpus& pool,
                                             const data::Corpus& targets) = 0;
    /// On this rank alone.
    [[nodiscard]] virtual Rows rows(const data::SampleSet& samples, const Columns& columns) const = 0;

    /// Q of second order; `of_extras`: by the extra columns. Without terms second order comes to first.
    [[nodiscard]] virtual CurvatureTerms curvature(const Columns& /*columns*/, bool /*of_extras*/) const { return {}; }
    /// The same from a result that was made with this influence. Throws Error(bad_input) where the result has none.
    [[nodiscard]] virtual CurvatureTerms stored_curvature(const io::ResultReader& /*result*/,
                                                          bool /*of_extras*/) const {
        return {};
    }

    /// Datasets and attributes of its own.
    virtual void write(io::ResultWriter& writer, const Columns& columns) const = 0;
};

/// The influence that the values name.
std::unique_ptr<Influence> make_influence(const options::Values& values);

/// Opens the files that it is planned from, and notes their facts in the values. Throws Error(bad_input).
void look_at_files(options::Values& values);

/// Collective. Member::look_at_pool of the influence that the values name.
std::vector<plan::Quarantined> look_at_pool(options::Values& values, comm::Communicator& comm,
                                            const data::Corpus& pool);

}  // namespace idistill::influence
